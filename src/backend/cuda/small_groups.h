// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace deltacome::cuda {

/// A matrix [rows, cols] of 4-bit codes whose groups are smaller than the kernels of deltas take,
/// or whose codes are entries of a table:
///   w = scales[col / group, row] * (levels[code] - zeros[col / group, row])
/// Codes are tiles of 16 rows by 64 columns, 512 bytes: of lane 4 g + t, 32-bit word 2 h + s: row
/// g + 8 h, columns 32 s + 8 t to 32 s + 8 t + 7, from the lowest bits on. So a lane's load is what
/// it multiplies on the tensor cores, once it is decoded to bf16.
struct SmallGroups {
  const uint4* codes = nullptr;     // [ceil(rows / 16)][ceil(cols / 64)][32]; null: none
  const float* scales = nullptr;    // [cols / group, rows]
  const float* zeros = nullptr;     // the same, whole numbers; null: 0
  const uint32_t* pairs = nullptr;  // [256] bf16 levels of a byte's two codes, the lower's first
  int64_t rows = 0, cols = 0;       // cols: a multiple of 32
  int64_t group = 32;               // a multiple of 32
};

constexpr int kSmallGroupRows = 16;  // most rows of x of launch_small_groups()
constexpr int64_t small_group_bytes(int64_t rows, int64_t cols) {
  return (rows + 15) / 16 * ((cols + 63) / 64) * 512;
}

/// Codes [rows, cols], one a byte, as tiles.
cudaError_t launch_pack_small_groups(const uint8_t* codes, int64_t rows, int64_t cols, uint4* to,
                                     cudaStream_t stream);
/// y [n, stride] = x W^T, x [n, cols] f32 rounded to bf16, sums in f32. A row's result depends
/// neither on the others nor on their number.
cudaError_t launch_small_groups(const SmallGroups& w, const float* x, int n, float* y,
                                int64_t stride, cudaStream_t stream);
/// Rows [first, first + n) as bf16 [n, cols]; `first` is a multiple of 16, `out` of 16 bytes.
cudaError_t launch_decode_small_groups(const SmallGroups& w, int64_t first, int64_t n, void* out,
                                       cudaStream_t stream);

}  // namespace deltacome::cuda
