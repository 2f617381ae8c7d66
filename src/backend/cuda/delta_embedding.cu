// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta_device.cuh"
#include "backend/cuda/delta_kernels.h"
#include "backend/cuda/plain_array.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kThreads = 256;

/// Element of a delta that is stored as tiles.
__device__ float tile_element(const EmbeddingSegment& s, int64_t row, int64_t col) {
  const int rows = block_rows(s.bits), r = static_cast<int>(row % rows);
  const int64_t block = row / rows, tile = col / kTileCols;
  const int c = static_cast<int>(col % kTileCols);
  const int lane = r % 8 * 4 + c / 8, word = r / 8 % 2 + 2 * (c / 4 % 2);
  const auto* bytes = static_cast<const uint8_t*>(s.codes) + (block * s.tiles + tile) * kTileBytes +
                      lane * 16 + word * 4 + c % 4;
  const uint32_t code = *bytes >> (s.bits * (r / 16)) & ((1u << s.bits) - 1);
  float scale = s.factor;
  if (s.row_factor != nullptr) scale *= s.row_factor[row];
  if (s.scales != nullptr) {
    const int64_t at = (row / kScaleRows * s.groups + col / kGroupCols) * kScaleRows;
    scale *= half_at(static_cast<const uint16_t*>(s.scales),
                     at + scale_position(static_cast<int>(row % kScaleRows)));
  }
  return scale * (static_cast<float>(code) - s.center);
}

/// Rows of an embedding get their variant's delta. Grid: any, block (kThreads); a block of threads
/// takes rows in turn.
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(const WorkList<EmbeddingSegment> of, const int32_t* __restrict__ ids,
                     const int32_t* __restrict__ rows, int64_t cols, float* __restrict__ y) {
  const Work<EmbeddingSegment> list = open(of);
  for (int unit = static_cast<int>(blockIdx.x); unit < list.units;
       unit += static_cast<int>(gridDim.x)) {
    const int item = item_of(list, unit);
    const EmbeddingSegment& s = list.items[item];
    const int64_t row = rows[s.first_token + unit - list.starts[item]];
    const int64_t id = ids[row];
    float* out = y + row * cols;
    for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
      if (id >= s.first_whole) {
        out[c] = element_at(s.whole, id - s.first_whole, c);
      } else if (s.codes != nullptr) {
        out[c] += tile_element(s, id, c);
      } else {
        out[c] += element_at(s.plain, id, c);
      }
    }
  }
}

}  // namespace

cudaError_t launch_embedding(const WorkList<EmbeddingSegment>& list, const int32_t* ids,
                             const int32_t* rows, int64_t cols, float* y, const DeltaLaunch& how) {
  embedding_kernel<<<static_cast<unsigned>(4 * how.n_sms), kThreads, 0, how.stream>>>(
      list, ids, rows, cols, y);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
