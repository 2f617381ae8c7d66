// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace deltacome::cli {

std::string format_bytes(int64_t bytes);      // "1.88 MiB"
std::string format_duration(double seconds);  // "0:42", "1:02:03"
/// `format` is fmt's; "-" if the figure was not measured (negative).
std::string format_figure(double value, const char* format = "{:.4g}");

/// Rows of text in aligned columns: the first to the left, the others to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace deltacome::cli
