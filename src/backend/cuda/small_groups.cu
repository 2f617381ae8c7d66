// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/numbers.cuh"
#include "backend/cuda/small_groups.h"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kAtOnce = 4;  // tiles on their way to a warp

/// c [16, 8] += a [16, 16] b [16, 8].
__device__ __forceinline__ void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// Levels of eight codes minus a zero, as bf16.
__device__ __forceinline__ void decode8(uint32_t codes, const uint32_t* pairs, float zero,
                                        uint32_t (&to)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t two = pairs[codes >> (8 * i) & 0xffu];
    to[i] = zero == 0 ? two
                      : pack2<bf16>(__uint_as_float(two << 16) - zero,
                                    __uint_as_float(two & 0xffff0000u) - zero);
  }
}

/// A thread makes 32-bit words of tiles, grid-stride.
__global__ void pack_kernel(const uint8_t* __restrict__ codes, int64_t rows, int64_t cols,
                            int64_t n_words, uint32_t* __restrict__ to) {
  const int64_t tiles = (cols + 63) / 64;
  for (int64_t w = blockIdx.x * int64_t{kThreads} + threadIdx.x; w < n_words;
       w += int64_t{gridDim.x} * kThreads) {
    const int word = static_cast<int>(w % 4), lane = static_cast<int>(w / 4 % 32);
    const int64_t row = w / 128 / tiles * 16 + lane / 4 + 8 * (word / 2);
    const int64_t col = w / 128 % tiles * 64 + 32 * (word % 2) + 8 * (lane % 4);
    uint32_t packed = 0;
    if (row < rows && col < cols) {
      for (int i = 0; i < 8; ++i) packed |= uint32_t{codes[row * cols + col + i]} << (4 * i);
    }
    to[w] = packed;
  }
}

/// A block has 16 outputs; its warps take tiles of 64 inputs in turn and are summed in their order.
/// Grid (ceil(rows / 16)), block (kThreads). kColumns: eights of rows of x.
template <int kColumns>
__global__ void __launch_bounds__(kThreads)
    small_groups_kernel(SmallGroups w, const float* __restrict__ x, int n, float* __restrict__ y,
                        int64_t stride) {
  __shared__ uint32_t pairs[256];
  __shared__ float sums[kWarps][16][kColumns * 8 + 1];
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int g = lane / 4, t = lane % 4;
  pairs[threadIdx.x] = w.pairs[threadIdx.x];
  __syncthreads();
  const int64_t tiles = (w.cols + 63) / 64, first = blockIdx.x * int64_t{16};
  const uint4* codes = w.codes + blockIdx.x * tiles * 32 + lane;
  // Rows beyond the last are read as the last, and their sums dropped.
  const int64_t rows[2] = {min(first + g, w.rows - 1), min(first + g + 8, w.rows - 1)};
  float sum[kColumns][4] = {};
  for (int64_t base = warp; base < tiles; base += kWarps * kAtOnce) {
    uint4 ahead[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t tile = base + kWarps * i;
      ahead[i] = tile < tiles ? __ldcs(codes + tile * 32) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const uint32_t of[2][2] = {{ahead[i].x, ahead[i].z}, {ahead[i].y, ahead[i].w}};
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int64_t col = (base + kWarps * i) * 64 + 32 * s;
        if (col >= w.cols) continue;
        uint32_t a[2][4];
        float scale[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int64_t at = col / w.group * w.rows + rows[h];
          scale[h] = w.scales[at];
          decode8(of[s][h], pairs, w.zeros == nullptr ? 0.0f : w.zeros[at], a[h]);
        }
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const int row = 8 * j + g;
          uint32_t b[4] = {};
          if (row < n) {
            const float4 low = load4(x + row * w.cols + col + 8 * t);
            const float4 high = load4(x + row * w.cols + col + 8 * t + 4);
            b[0] = pack2<bf16>(low.x, low.y);
            b[1] = pack2<bf16>(low.z, low.w);
            b[2] = pack2<bf16>(high.x, high.y);
            b[3] = pack2<bf16>(high.z, high.w);
          }
          float c[4] = {};
          multiply(c, a[0][0], a[1][0], a[0][1], a[1][1], b[0], b[1]);
          multiply(c, a[0][2], a[1][2], a[0][3], a[1][3], b[2], b[3]);
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[j][e] = fmaf(scale[e / 2], c[e], sum[j][e]);
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[warp][g + 8 * (e / 2)][8 * j + 2 * t + e % 2] = sum[j][e];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 16 * n; i += kThreads) {
    const int output = i % 16, row = i / 16;
    if (first + output >= w.rows) continue;
    float total = 0;
#pragma unroll
    for (int from = 0; from < kWarps; ++from) total += sums[from][output][row];
    y[row * stride + first + output] = total;
  }
}

/// Grid (ceil(tiles of the rows / kWarps)), block (kThreads): a warp has a tile.
__global__ void decode_kernel(SmallGroups w, int64_t first, int64_t n, int64_t n_units,
                              uint16_t* __restrict__ out) {
  __shared__ uint32_t pairs[256];
  pairs[threadIdx.x] = w.pairs[threadIdx.x];
  __syncthreads();
  const int64_t unit = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (unit >= n_units) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t tiles = (w.cols + 63) / 64, block = first / 16 + unit / tiles, tile = unit % tiles;
  const uint4 four = w.codes[(block * tiles + tile) * 32 + lane];
  const uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t row = block * 16 + lane / 4 + 8 * (i / 2);
    const int64_t col = tile * 64 + 32 * (i % 2) + 8 * (lane % 4);
    if (row >= first + n || col >= w.cols) continue;
    const int64_t at = col / w.group * w.rows + row;
    const float scale = w.scales[at], zero = w.zeros == nullptr ? 0.0f : w.zeros[at];
    uint32_t to[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint32_t two = pairs[words[i] >> (8 * k) & 0xffu];
      to[k] = pack2<bf16>(scale * (__uint_as_float(two << 16) - zero),
                          scale * (__uint_as_float(two & 0xffff0000u) - zero));
    }
    *reinterpret_cast<uint4*>(out + (row - first) * w.cols + col) = {to[0], to[1], to[2], to[3]};
  }
}

}  // namespace

cudaError_t launch_pack_small_groups(const uint8_t* codes, int64_t rows, int64_t cols, uint4* to,
                                     cudaStream_t stream) {
  const int64_t n_words = small_group_bytes(rows, cols) / 4;
  if (n_words == 0) return cudaSuccess;
  const int64_t blocks = (n_words + kThreads - 1) / kThreads;
  pack_kernel<<<static_cast<unsigned>(blocks < 65536 ? blocks : 65536), kThreads, 0, stream>>>(
      codes, rows, cols, n_words, reinterpret_cast<uint32_t*>(to));
  return cudaGetLastError();
}

cudaError_t launch_small_groups(const SmallGroups& w, const float* x, int n, float* y,
                                int64_t stride, cudaStream_t stream) {
  if (n == 0 || w.rows == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>((w.rows + 15) / 16);
  if (n > 8) {
    small_groups_kernel<2><<<grid, kThreads, 0, stream>>>(w, x, n, y, stride);
  } else {
    small_groups_kernel<1><<<grid, kThreads, 0, stream>>>(w, x, n, y, stride);
  }
  return cudaGetLastError();
}

cudaError_t launch_decode_small_groups(const SmallGroups& w, int64_t first, int64_t n, void* out,
                                       cudaStream_t stream) {
  const int64_t n_units = (n + 15) / 16 * ((w.cols + 63) / 64);
  if (n_units == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>((n_units + kWarps - 1) / kWarps);
  decode_kernel<<<grid, kThreads, 0, stream>>>(w, first, n, n_units, static_cast<uint16_t*>(out));
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
