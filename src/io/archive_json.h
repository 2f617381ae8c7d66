// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "io/archive.h"

namespace deltacome {

inline constexpr int kArchiveFormatVersion = 1;

/// The description of one tensor, as in delta_config.json and in shards.
nlohmann::json to_json(const ArchiveTensor& tensor);
/// The reverse; checks everything. Throws kCorrupt and kUnsupported beginning with `where`.
ArchiveTensor tensor_from_json(const nlohmann::json& value, const std::string& where);

nlohmann::json to_json(const ArchiveConfig& config);
ArchiveConfig config_from_json(const nlohmann::json& value, const std::string& where);

}  // namespace deltacome
