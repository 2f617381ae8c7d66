// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "model_parts.h"

namespace deltacome::cli {

/// The combination of several fine-tunes as a checkpoint beside an archive that is made of it,
/// "<out>.combined"; it goes away with this object.
class CombinedFinetune {
 public:
  /// With `resume`, a checkpoint that an interrupted run left there is taken as it is: it appeared
  /// whole, and compress_delta() compares its hash. Throws what write_checkpoint() throws.
  CombinedFinetune(const PartsChoice& choice, const std::filesystem::path& out, bool resume);
  ~CombinedFinetune();
  CombinedFinetune(const CombinedFinetune&) = delete;
  CombinedFinetune& operator=(const CombinedFinetune&) = delete;

  const std::filesystem::path& path() const noexcept { return path_; }
  /// "ties of math + code".
  const std::string& name() const noexcept { return name_; }

 private:
  std::filesystem::path path_;
  std::string name_;
};

}  // namespace deltacome::cli
