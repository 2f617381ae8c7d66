// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace deltacome::cuda {

// Tokens of a row of logits as numbers in the order in which they are chosen.

/// Larger for the larger logit and, of equals, for the smaller id; no two tokens have the same.
__device__ inline uint64_t key_of(float value, int64_t id) {
  const uint32_t bits = __float_as_uint(value);
  const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{ordered} << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
__device__ inline float value_of(uint64_t key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float((ordered & 0x80000000u) != 0 ? ordered & 0x7fffffffu : ~ordered);
}
__device__ inline int32_t id_of(uint64_t key) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
}

/// Sorts keys [size] in shared memory, largest first; size is a power of two. By a whole block.
__device__ inline void sort_keys(uint64_t* keys, int size) {
  for (int run = 2; run <= size; run *= 2) {  // bitonic
    for (int step = run / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < size; i += static_cast<int>(blockDim.x)) {
        const int other = i ^ step;
        if (other < i) continue;
        const bool is_falling = (i & run) == 0;
        const uint64_t x = keys[i], y = keys[other];
        if ((x < y) == is_falling) {
          keys[i] = y;
          keys[other] = x;
        }
      }
    }
  }
  __syncthreads();
}

}  // namespace deltacome::cuda
