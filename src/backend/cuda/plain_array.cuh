// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_fp16.h>

#include "backend/cuda/delta_layout.h"

namespace deltacome::cuda {

/// Code of an element of a stored array of at most 8 bits.
__device__ inline uint32_t code_at(const PlainArray& a, int64_t row, int64_t col) {
  const int width = a.bits == 3 ? 2 : a.bits;
  const int per_byte = 8 / width;
  const int64_t row_bytes = (a.cols + per_byte - 1) / per_byte;
  const uint32_t byte = a.low[row * row_bytes + col / per_byte];
  uint32_t code = byte >> (width * static_cast<int>(col % per_byte)) & ((1u << width) - 1);
  if (a.bits == 3) {
    const uint32_t bits = a.high[row * ((a.cols + 7) / 8) + col / 8];
    code |= (bits >> (col % 8) & 1) << 2;
  }
  return code;
}

__device__ inline float half_at(const uint16_t* values, int64_t i) {
  return __half2float(__ushort_as_half(values[i]));
}

/// Value of an element.
__device__ inline float element_at(const PlainArray& a, int64_t row, int64_t col) {
  const int64_t i = row * a.cols + col;
  switch (a.kind) {
    case PlainArray::Kind::kF16:
      return half_at(reinterpret_cast<const uint16_t*>(a.low), i);
    case PlainArray::Kind::kBf16:
      return __uint_as_float(uint32_t{reinterpret_cast<const uint16_t*>(a.low)[i]} << 16);
    case PlainArray::Kind::kF32:
      return reinterpret_cast<const float*>(a.low)[i];
    default: {
      const int64_t scale_cols = (a.cols + a.scale_cols - 1) / a.scale_cols;
      const float scale = half_at(a.scales, row / a.scale_rows * scale_cols + col / a.scale_cols);
      const float center = 0.5f * static_cast<float>((1 << a.bits) - 1);
      return scale * (static_cast<float>(code_at(a, row, col)) - center);
    }
  }
}

}  // namespace deltacome::cuda
