// SPDX-License-Identifier: Apache-2.0
#include "progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "cli.h"

namespace deltacome::cli {
namespace {

constexpr int64_t kBarWidth = 20;
constexpr auto kPlainInterval = std::chrono::seconds(10);

size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

Progress::Progress() : terminal_(isatty(STDERR_FILENO) == 1) {}

void Progress::update(int64_t step, int64_t total, int64_t part, const std::string& text) {
  const std::string count = fmt::format("{}/{}  {}", step, total, one_line(text));
  if (terminal_) {
    const int64_t filled =
        total > 0 ? std::clamp<int64_t>(step * kBarWidth / total, 0, kBarWidth) : 0;
    std::string line =
        fmt::format("[{:#<{}}{:.<{}}] {}", "", filled, "", kBarWidth - filled, count);
    line.resize(std::min(line.size(), terminal_width() - 1));
    fmt::print(stderr, "\r{}\x1b[K", line);
    std::fflush(stderr);
    open_ = true;
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (part == last_part_ && now - last_line_ < kPlainInterval) return;
  last_part_ = part;
  last_line_ = now;
  fmt::print(stderr, "{}\n", count);
}

void Progress::finish() noexcept {
  if (open_) std::fputc('\n', stderr);
  open_ = false;
}

}  // namespace deltacome::cli
