// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace deltacome {

/// Extents of a row-major tensor, slowest first.
using Shape = std::vector<int64_t>;

/// Number of elements; the caller has checked that it does not overflow.
inline int64_t element_count(const Shape& shape) noexcept {
  int64_t n = 1;
  for (const int64_t extent : shape) n *= extent;
  return n;
}

inline std::string to_string(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace deltacome
