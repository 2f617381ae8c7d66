// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace deltacome::server {

/// The directories from which variants may be loaded over HTTP. Immutable.
class AllowedPaths {
 public:
  /// `roots` exist; the first is where relative paths begin. Throws kNotFound.
  explicit AllowedPaths(const std::vector<std::filesystem::path>& roots);

  /// The real path of a directory below a root, without links. Throws ApiError: 403 if it, or a
  /// file in it, is not below a root (whether it exists or not), 404 if it is not a directory.
  std::filesystem::path resolve(const std::string& path) const;
  bool empty() const noexcept { return roots_.empty(); }

 private:
  bool contains(const std::filesystem::path& real) const;
  std::vector<std::filesystem::path> roots_;  // real paths
};

/// Whether `name` can name a variant: 1 to 128 bytes of UTF-8 without control characters, no '/'
/// at an end and no component that is "." or "..". Throws ApiError(400) if not.
void check_variant_name(const std::string& name, const std::string& field);

}  // namespace deltacome::server
