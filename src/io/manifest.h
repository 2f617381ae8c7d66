// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace deltacome {

inline constexpr const char* kManifestName = "MANIFEST.sha256";

/// File name -> lower-case hex SHA-256.
using Manifest = std::map<std::string, std::string>;

/// Lines "<64 hex digits>  <file name>\n", sorted by name, as sha256sum writes and checks them.
std::string format_manifest(const Manifest& manifest);
/// The reverse, strict: any other byte sequence throws kCorrupt beginning with `where`.
Manifest parse_manifest(std::string_view text, const std::string& where);

}  // namespace deltacome
