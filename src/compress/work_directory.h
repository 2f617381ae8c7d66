// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "io/archive.h"

namespace deltacome {

/// Finished parts of a compression that is under way, in "<out>.partial": one shard per layer, and
/// run.txt, which says what run they belong to.
class WorkDirectory {
 public:
  /// `identity` is one line per thing that the result depends on. With `resume`, shards of the same
  /// run are kept, and those of another are refused (kMismatch, naming the first line that
  /// differs); without it, the directory starts empty. Throws kInvalidArgument if `out` itself is
  /// already there, or if the directory holds something else.
  WorkDirectory(const std::filesystem::path& out, const std::string& identity, bool resume);

  /// The tensors of a finished part, by name; nullopt if it is not finished or damaged.
  std::optional<std::vector<CodedTensor>> read(const std::string& part) const;
  void write(const std::string& part, const std::vector<CodedTensor>& tensors) const;
  /// Removes what belongs to `out`, after the archive is in place.
  static void remove(const std::filesystem::path& out);

 private:
  std::filesystem::path path_;
};

/// Throws kInvalidArgument if `out` exists and is not an empty directory.
void check_output(const std::filesystem::path& out);

}  // namespace deltacome
