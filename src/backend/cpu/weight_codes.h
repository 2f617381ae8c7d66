// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

namespace deltacome::cpu {

inline float largest_of(std::span<const float> x) {
  float largest = 0;
  for (const float v : x) largest = std::max(largest, std::abs(v));
  return largest;
}

/// 0 where 1 / scale would be infinite: all codes are then those of 0.
inline float inverse_of(float scale) {
  return scale < std::numeric_limits<float>::min() ? 0 : 1 / scale;
}

/// Code of w / scale among 2^bits levels around 0; `inverse` is 1 / scale.
inline uint8_t code_of(float w, float inverse, int bits) {
  const int half = 1 << (bits - 1);
  const auto level = static_cast<int>(std::floor(w * inverse)) + half;
  return static_cast<uint8_t>(std::clamp(level, 0, 2 * half - 1));
}

}  // namespace deltacome::cpu
