// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace deltacome {

/// The content hash of the full-precision checkpoint that a quantized one stands for, by its
/// deltacome_base.json, which relate_bases() wrote; nullopt without one. `hash` is the quantized
/// checkpoint's own. Throws kMismatch if the file was written for other weights, kCorrupt.
std::optional<std::string> related_base(const std::filesystem::path& quantized,
                                        const std::string& hash);

}  // namespace deltacome
