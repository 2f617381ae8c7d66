// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include "backend/cuda/delta_layout.h"

namespace deltacome::cuda {

// Stored arrays, in device memory, into the layouts of the kernels. Stream-ordered.

/// Codes of `from`, or of its transpose, as the tiles of `m` at `to`, its first one.
cudaError_t launch_pack_tiles(const PlainArray& from, bool transposed, const PackedMatrix& m,
                              void* to, cudaStream_t stream);
/// Scales of groups of 128: row r, group g of the tiles is from.scales[r * row_stride + g *
/// group_stride]; n_rows is padded to `chunks` of 64 with zeros.
cudaError_t launch_pack_scales(const uint16_t* scales, int64_t rows, int64_t groups,
                               int64_t row_stride, int64_t group_stride, int64_t chunks, void* to,
                               cudaStream_t stream);
/// Vector codes [rows, codes] u8 of entries of `dim` as blocks of 32 rows by 64 codes: 4 16-byte
/// loads of each lane. Load q of lane 4 g + j: row 8 q + g, and its byte i is code
/// E (4 (i / E) + j) + i % E, E = entries of a lane's chunk (1 for dim 8 and 16, 2 for 4 and 12, 4
/// for 6): a chunk is whole operands of 8 columns.
cudaError_t launch_pack_vector(const uint8_t* codes, int64_t rows, int64_t n_codes, int dim,
                               void* to, cudaStream_t stream);

DELTACOME_HOST_DEVICE constexpr int64_t blocks_of(int64_t rows, int bits) {
  return (rows + block_rows(bits) - 1) / block_rows(bits);
}
DELTACOME_HOST_DEVICE constexpr int64_t tiles_of(int64_t cols) {
  return (cols + kTileCols - 1) / kTileCols;
}
DELTACOME_HOST_DEVICE constexpr int64_t groups_of(int64_t cols) {
  return (cols + kGroupCols - 1) / kGroupCols;
}
DELTACOME_HOST_DEVICE constexpr int64_t tile_bytes(int64_t rows, int64_t cols, int bits) {
  return blocks_of(rows, bits) * tiles_of(cols) * kTileBytes;
}
/// 64-row chunks of scales that the row blocks read.
DELTACOME_HOST_DEVICE constexpr int64_t scale_chunks(int64_t rows, int bits) {
  return bits == 1 ? 2 * blocks_of(rows, bits) : (rows + kScaleRows - 1) / kScaleRows;
}
DELTACOME_HOST_DEVICE constexpr int64_t vector_blocks(int64_t n_codes) {
  return (n_codes + kVectorCodes - 1) / kVectorCodes;
}
DELTACOME_HOST_DEVICE constexpr int64_t vector_bytes(int64_t rows, int64_t n_codes) {
  return blocks_of(rows, 0) * vector_blocks(n_codes) * kVectorRows * kVectorCodes;
}

}  // namespace deltacome::cuda
