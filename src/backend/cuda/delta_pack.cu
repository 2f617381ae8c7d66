// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta_pack.h"
#include "backend/cuda/plain_array.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kThreads = 256;

unsigned grid_for(int64_t n) {
  const int64_t blocks = (n + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < 65536 ? blocks : 65536);
}

/// A thread makes 32-bit words of tiles, grid-stride: words [row block][tile][lane][4].
__global__ void pack_tiles_kernel(PlainArray from, bool transposed, PackedMatrix m, int64_t tiles,
                                  int64_t n_words, uint32_t* __restrict__ to) {
  const int bits = m.bits;
  for (int64_t w = blockIdx.x * int64_t{kThreads} + threadIdx.x; w < n_words;
       w += int64_t{gridDim.x} * kThreads) {
    const int word = static_cast<int>(w % 4), lane = static_cast<int>(w / 4 % 32);
    const int64_t tile = w / 128 % tiles, block = w / 128 / tiles;
    const int64_t first_row = block * (128 / bits) + lane / 4 + 8 * (word % 2);
    const int64_t first_col = tile * kTileCols + 8 * (lane % 4) + 4 * (word / 2);
    uint32_t packed = 0;
    for (int byte = 0; byte < 4; ++byte) {
      for (int field = 0; field < 8 / bits; ++field) {
        const int64_t r = first_row + 16 * field, c = first_col + byte;
        if (r >= m.rows || c >= m.cols) continue;
        const uint32_t code = transposed ? code_at(from, c, r) : code_at(from, r, c);
        packed |= code << (8 * byte + bits * field);
      }
    }
    to[tile_position(m, tiles, block, tile) * (kTileBytes / 4) + w % 128] = packed;
  }
}

/// A thread makes scales, grid-stride: [chunk][group][64 in scale_position()].
__global__ void pack_scales_kernel(const uint16_t* __restrict__ scales, int64_t rows,
                                   int64_t groups, int64_t row_stride, int64_t group_stride,
                                   int64_t n, uint16_t* __restrict__ to) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t group = i / kScaleRows % groups, chunk = i / kScaleRows / groups;
    const int r = static_cast<int>(i % kScaleRows);
    const int64_t row = chunk * kScaleRows + r;
    to[i - r + scale_position(r)] =
        row < rows ? scales[row * row_stride + group * group_stride] : uint16_t{0};
  }
}

/// A thread makes 32-bit words of blocks, grid-stride: [row block][block][load][lane][4].
__global__ void pack_vector_kernel(const uint8_t* __restrict__ codes, int64_t rows, int64_t n_codes,
                                   int entries, int64_t blocks, int64_t n_words,
                                   uint32_t* __restrict__ to) {
  for (int64_t w = blockIdx.x * int64_t{kThreads} + threadIdx.x; w < n_words;
       w += int64_t{gridDim.x} * kThreads) {
    const int word = static_cast<int>(w % 4), lane = static_cast<int>(w / 4 % 32);
    const int load = static_cast<int>(w / 128 % 4);
    const int64_t block = w / 512 % blocks, row_block = w / 512 / blocks;
    const int64_t row = row_block * kVectorRows + 8 * load + lane / 4;
    uint32_t packed = 0;
    for (int byte = 0; byte < 4; ++byte) {
      const int i = 4 * word + byte;
      const int64_t code =
          block * kVectorCodes + entries * (4 * (i / entries) + lane % 4) + i % entries;
      if (row < rows && code < n_codes)
        packed |= uint32_t{codes[row * n_codes + code]} << (8 * byte);
    }
    to[w] = packed;
  }
}

}  // namespace

cudaError_t launch_pack_tiles(const PlainArray& from, bool transposed, const PackedMatrix& m,
                              void* to, cudaStream_t stream) {
  const int64_t tiles = tiles_of(m.cols);
  const int64_t blocks = ceil_to(blocks_of(m.rows, m.bits), m.together);  // whole runs
  const int64_t n_words = blocks * tiles * (kTileBytes / 4);
  if (n_words == 0) return cudaSuccess;
  pack_tiles_kernel<<<grid_for(n_words), kThreads, 0, stream>>>(from, transposed, m, tiles, n_words,
                                                                static_cast<uint32_t*>(to));
  return cudaGetLastError();
}

cudaError_t launch_pack_scales(const uint16_t* scales, int64_t rows, int64_t groups,
                               int64_t row_stride, int64_t group_stride, int64_t chunks, void* to,
                               cudaStream_t stream) {
  const int64_t n = chunks * groups * kScaleRows;
  if (n == 0) return cudaSuccess;
  pack_scales_kernel<<<grid_for(n), kThreads, 0, stream>>>(
      scales, rows, groups, row_stride, group_stride, n, static_cast<uint16_t*>(to));
  return cudaGetLastError();
}

cudaError_t launch_pack_vector(const uint8_t* codes, int64_t rows, int64_t n_codes, int dim,
                               void* to, cudaStream_t stream) {
  const int64_t n_words = vector_bytes(rows, n_codes) / 4;
  if (n_words == 0) return cudaSuccess;
  const int entries = chunk_entries(dim);
  pack_vector_kernel<<<grid_for(n_words), kThreads, 0, stream>>>(
      codes, rows, n_codes, entries, vector_blocks(n_codes), n_words, static_cast<uint32_t*>(to));
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
