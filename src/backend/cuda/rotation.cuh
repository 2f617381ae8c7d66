// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace deltacome::cuda {

// The rotation of the inputs of vector codes, R = diag(signs) H (quant/vector_codes.h).

constexpr int kRotationThreads = 256;

/// +1 or -1: element i of the signs of a rotation of n elements (rotation_signs()).
__device__ inline float sign_of(uint64_t seed, int64_t n, int64_t i) {
  uint64_t z =
      seed + static_cast<uint64_t>(n) + (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return ((z ^ (z >> 31)) & 1) == 0 ? 1.0f : -1.0f;
}

/// Column c of a row x with its gain and, where it is rotated, its sign; 0 behind the last column.
/// `a` has cols, gains (or null), block (0 = not rotated) and seed.
template <class Input>
__device__ float signed_input(const Input& a, const float* x, int c) {
  if (c >= a.cols) return 0;
  float value = __ldcg(x + c);  // which may have been written while this kernel waited
  if (a.gains != nullptr) value *= a.gains[c];
  if (a.block > 0) value *= sign_of(a.seed, a.cols, c);
  return value;
}

/// Hadamard blocks of v [n], a multiple of `block`, in place: two levels at a time, in the order of
/// one at a time. By a block of kRotationThreads. What they have to be multiplied with is returned.
__device__ inline float hadamard(float* v, int n, int block) {
  const int t = static_cast<int>(threadIdx.x);
  int half = 1;
  for (; 2 * half < block; half *= 4) {
    for (int i = t; i < n / 4; i += kRotationThreads) {
      float* p = v + i / half * 4 * half + i % half;
      const float a = p[0], b = p[half], c = p[2 * half], d = p[3 * half];
      const float ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;
      p[0] = ab + cd;
      p[half] = a_b + c_d;
      p[2 * half] = ab - cd;
      p[3 * half] = a_b - c_d;
    }
    __syncthreads();
  }
  if (half < block) {
    for (int i = t; i < n / 2; i += kRotationThreads) {
      float* p = v + i / half * 2 * half + i % half;
      const float a = p[0], b = p[half];
      p[0] = a + b;
      p[half] = a - b;
    }
    __syncthreads();
  }
  return 1 / sqrtf(static_cast<float>(block));
}

}  // namespace deltacome::cuda
