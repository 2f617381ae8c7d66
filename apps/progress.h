// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace deltacome::cli {

/// Progress on standard error: one line that is rewritten on a terminal, plain lines elsewhere.
class Progress {
 public:
  Progress();
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `step` of `total` is done; `text` follows the bar. Elsewhere than on a terminal a line is
  /// written when `part` (a layer, say) differs from the last one's, or after ten seconds.
  void update(int64_t step, int64_t total, int64_t part, const std::string& text);
  /// Ends the line on a terminal, so that other output can follow.
  void finish() noexcept;

 private:
  bool terminal_;
  bool open_ = false;  // the cursor is on an unfinished line
  int64_t last_part_ = -1;
  std::chrono::steady_clock::time_point last_line_{};
};

}  // namespace deltacome::cli
