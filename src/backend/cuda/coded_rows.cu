// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/coded_rows.h"
#include "backend/cuda/delta_pack.h"
#include "backend/cuda/numbers.cuh"
#include "backend/cuda/plain_array.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = 8;  // of x that a warp sums at a time

unsigned grid_for(int64_t n, int64_t most) {
  return static_cast<unsigned>(n < most ? n : most);
}

/// Grid (any, n_targets), block (kThreads): a warp has an output, its lanes stride over groups;
/// without zeros, threads stride over elements.
__global__ void first_sums_kernel(const __grid_constant__ FirstSums a) {
  const FirstSums::Target& target = a.targets[blockIdx.y];
  if (target.zeros == nullptr) {
    for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < a.n_rows * target.n_out;
         i += int64_t{gridDim.x} * kThreads) {
      target.y[i / target.n_out * target.stride + i % target.n_out] = 0;
    }
    return;
  }
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int64_t o = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32; o < target.n_out;
       o += int64_t{gridDim.x} * kWarps) {
    const float* zeros = target.zeros + o * target.n_sums;
    for (int64_t first = 0; first < a.n_rows; first += kRows) {
      const int n = static_cast<int>(min(int64_t{kRows}, a.n_rows - first));
      float sum[kRows] = {};
      for (int64_t g = lane; g < a.groups; g += 32) {
        const float zero = zeros[target.n_sums == 1 ? 0 : g];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (r >= n) continue;
          const float2 input = a.inputs[(first + r) * a.groups + g];
          sum[r] = fmaf(zero, input.x * input.y, sum[r]);
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float total = sum_over<32>(sum[r]);
        if (lane == r && r < n) target.y[(first + r) * target.stride + o] = total;
      }
    }
  }
}

/// Grid (ceil(tiles of the rows / kWarps)), block (kThreads): a warp has a tile.
template <int kBits>
__global__ void decode_zeros_kernel(const __grid_constant__ DecodeZeros a, int64_t n_units) {
  const int64_t unit = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (unit >= n_units) return;
  const PackedMatrix& m = a.matrix;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t tiles = tiles_of(m.cols), tile = unit % tiles;
  const int64_t block = a.first / block_rows(kBits) + unit / tiles;
  const int64_t col = tile * kTileCols + 8 * (lane % 4), group = tile / kGroupTiles;
  if (col >= a.cols) return;
  const uint4 four =
      static_cast<const uint4*>(m.codes)[tile_position(m, tiles, block, tile) * 32 + lane];
  const uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
  for (int field = 0; field < 8 / kBits; ++field) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t row = block * block_rows(kBits) + lane / 4 + 8 * h + 16 * field;
      if (row >= a.first + a.n) continue;
      const float scale =
          m.row_factor != nullptr
              ? m.row_factor[row]
              : half_at(static_cast<const uint16_t*>(m.scales),
                        (row / kScaleRows * groups_of(m.cols) + group) * kScaleRows +
                            scale_position(static_cast<int>(row % kScaleRows)));
      const float zero = a.zeros[row * a.n_sums + (a.n_sums == 1 ? 0 : group)];
      float v[8];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const uint32_t code = words[h + 2 * (e / 4)] >> (8 * (e % 4) + kBits * field);
        v[e] = fmaf(static_cast<float>(code & ((1u << kBits) - 1)) - m.center, scale, zero);
        if (col + e >= m.cols) v[e] = 0;
      }
      auto* out = static_cast<uint16_t*>(a.out) + (row - a.first) * a.cols + col;
      *reinterpret_cast<uint4*>(out) = {pack2<bf16>(v[0], v[1]), pack2<bf16>(v[2], v[3]),
                                        pack2<bf16>(v[4], v[5]), pack2<bf16>(v[6], v[7])};
    }
  }
}

/// Grid (any, n_rows), block (kThreads).
__global__ void gather_columns_kernel(const float* __restrict__ x, int64_t n,
                                      const int32_t* __restrict__ order, float* __restrict__ y) {
  const int64_t first = blockIdx.y * n;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    y[first + i] = x[first + order[i]];
  }
}

}  // namespace

cudaError_t launch_first_sums(const FirstSums& args, cudaStream_t stream) {
  int64_t most = 0;
  for (int t = 0; t < args.n_targets; ++t) {
    const FirstSums::Target& target = args.targets[t];
    const int64_t blocks = target.zeros != nullptr
                               ? (target.n_out + kWarps - 1) / kWarps
                               : (args.n_rows * target.n_out + kThreads - 1) / kThreads;
    most = blocks > most ? blocks : most;
  }
  if (most == 0 || args.n_rows == 0) return cudaSuccess;
  const dim3 grid(grid_for(most, 2048), static_cast<unsigned>(args.n_targets));
  first_sums_kernel<<<grid, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t launch_decode_zeros(const DecodeZeros& args, cudaStream_t stream) {
  const int bits = args.matrix.bits;
  const int64_t n_units = blocks_of(args.n, bits) * tiles_of(args.matrix.cols);
  if (n_units == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>((n_units + kWarps - 1) / kWarps);
  if (bits == 4) {
    decode_zeros_kernel<4><<<grid, kThreads, 0, stream>>>(args, n_units);
  } else {
    decode_zeros_kernel<8><<<grid, kThreads, 0, stream>>>(args, n_units);
  }
  return cudaGetLastError();
}

cudaError_t launch_gather_columns(const float* x, int64_t n_rows, int64_t n, const int32_t* order,
                                  float* y, cudaStream_t stream) {
  constexpr int64_t kMostRows = 65535;  // of a grid
  const unsigned blocks = grid_for((n + kThreads - 1) / kThreads, 64);
  for (int64_t first = 0; first < n_rows && n > 0; first += kMostRows) {
    const dim3 grid(blocks, grid_for(n_rows - first, kMostRows));
    gather_columns_kernel<<<grid, kThreads, 0, stream>>>(x + first * n, n, order, y + first * n);
  }
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
