// SPDX-License-Identifier: Apache-2.0
// The rotation of vector codes: a part of kernels_impl.h, which includes it, under its rules.
#pragma once

namespace deltacome::cpu {
namespace {

/// One stage of the butterflies inside a vector: a + b in the lower lane of a pair, a - b in the
/// upper one.
template <int kHalf, int... kLane>
DELTACOME_INLINE F butterfly(F v, std::integer_sequence<int, kLane...>) {
  const F sign = {((kLane & kHalf) == 0 ? 1.0f : -1.0f)...};
  return DELTACOME_SHUFFLE(v, v, (kLane ^ kHalf)...) +
         v * sign;  // a product by +-1 is exact, fused or not
}

void rotate_block(float* x, const float* signs, int64_t block, float by) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes>();
  for (int64_t i = 0; i < block; i += kLanes) {
    F v = butterfly<1>(load(x + i) * load(signs + i), lanes);
    v = butterfly<2>(v, lanes);
    if constexpr (kLanes >= 8) v = butterfly<4>(v, lanes);
    if constexpr (kLanes >= 16) v = butterfly<8>(v, lanes);
    store(x + i, v);
  }
  for (int64_t half = kLanes; half < block; half *= 2) {
    for (int64_t i = 0; i < block; i += 2 * half) {
      for (int64_t j = i; j < i + half; j += kLanes) {
        const F a = load(x + j), b = load(x + j + half);
        store(x + j, a + b);
        store(x + j + half, a - b);
      }
    }
  }
  for (int64_t i = 0; i < block; i += kLanes) store(x + i, load(x + i) * by);
}

void rotate(float* x, const float* signs, int64_t n, int64_t block) {
  const float by = 1 / __builtin_sqrtf(static_cast<float>(block));
  for (int64_t first = 0; first < n; first += block) {
    float* p = x + first;
    if (block >= kLanes) {
      rotate_block(p, signs + first, block, by);
      continue;
    }
    for (int64_t i = 0; i < block; ++i) p[i] *= signs[first + i];
    for (int64_t half = 1; half < block; half *= 2) {
      for (int64_t i = 0; i < block; i += 2 * half) {
        for (int64_t j = i; j < i + half; ++j) {
          const float a = p[j], b = p[j + half];
          p[j] = a + b;
          p[j + half] = a - b;
        }
      }
    }
    for (int64_t i = 0; i < block; ++i) p[i] *= by;
  }
}

}  // namespace
}  // namespace deltacome::cpu
