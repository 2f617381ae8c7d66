// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/dtype.h"

namespace deltacome {

/// model.safetensors.index.json of tensors (name, shard file) that have total_bytes together.
std::string checkpoint_index_json(const std::vector<std::pair<std::string, std::string>>& places,
                                  int64_t total_bytes);

/// A config.json that says another type of its weights (torch_dtype, dtype), other fields in their
/// order. Throws kCorrupt; `where` begins the message.
std::string config_with_dtype(std::string_view config_json, DType dtype, const std::string& where);

/// Text as a JSON string with its quotes, one line; bytes that are not UTF-8 become U+FFFD.
std::string quoted_json(std::string_view text);

}  // namespace deltacome
