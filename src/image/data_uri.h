// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace deltacome {

/// The bytes of a URI "data:image/<type>;base64,<base64>"; the type is not looked at, the bytes say
/// it better. Throws kInvalidArgument for another URI, or for base64 that is none.
std::string decode_data_uri(std::string_view uri);

/// The bytes of a picture that a row of a file names: by a data URI, or by a path from `directory`.
/// Throws as decode_data_uri(), and kNotFound, kIo, kCorrupt for a file that is too large.
std::string read_named_picture(const std::string& name, const std::filesystem::path& directory);

}  // namespace deltacome
