// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/overlap.cuh"
#include "backend/cuda/paged.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kBlock = 128;
constexpr int kWarps = kBlock / 32;

__global__ void rotations_kernel(const int32_t* __restrict__ positions,
                                 const float* __restrict__ inv_freq, int64_t half,
                                 float* __restrict__ table) {
  const auto position = static_cast<float>(positions[blockIdx.x]);
  float* row = table + blockIdx.x * 2 * half;
  for (int64_t i = threadIdx.x; i < half; i += kBlock) {
    const auto angle = static_cast<double>(__fmul_rn(position, inv_freq[i]));
    row[i] = static_cast<float>(cos(angle));
    row[half + i] = static_cast<float>(sin(angle));
  }
}

/// Grid (n_rows, n_heads), any block.
__global__ void rope_kernel(Rope args) {
  release_dependents();
  wait_for_inputs();
  const int64_t half = args.half;
  const float* cos = args.table + blockIdx.x * 2 * half;
  const float* sin = cos + half;
  float* head = args.x + (blockIdx.x * int64_t{gridDim.y} + blockIdx.y) * 2 * half;
  for (int64_t i = threadIdx.x; i < half; i += blockDim.x) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cos[i] - b * sin[i];
    head[i + half] = b * cos[i] + a * sin[i];
  }
}

/// Grid (n_rows, 2: keys, values, blocks over the row), block (kBlock).
template <class T>
__global__ void store_kernel(StoreKv a) {
  release_dependents();
  wait_for_inputs();
  const int row = blockIdx.x, position = a.rows.positions[row];
  const int32_t* blocks = a.rows.blocks + a.rows.tables[row];
  const int64_t width = int64_t{a.n_heads} * a.head_dim;
  const int64_t token =
      int64_t{blocks[position / kBlockTokens]} * kBlockTokens + position % kBlockTokens;
  const float* from = (blockIdx.y == 0 ? a.k : a.v) + row * width;
  T* to = static_cast<T*>(blockIdx.y == 0 ? a.k_cache.data : a.v_cache.data) + token * width;
  for (int64_t i = blockIdx.z * kBlock + threadIdx.x; i < width; i += int64_t{gridDim.z} * kBlock)
    to[i] = from_float<T>(from[i]);
}

/// The same in int8; a warp codes a head.
__global__ void store_codes_kernel(StoreKv a) {
  release_dependents();
  wait_for_inputs();
  const int row = blockIdx.x, position = a.rows.positions[row];
  const int32_t* blocks = a.rows.blocks + a.rows.tables[row];
  const int64_t token =
      int64_t{blocks[position / kBlockTokens]} * kBlockTokens + position % kBlockTokens;
  const int lane = threadIdx.x % 32, stride = a.head_dim + 4;
  for (int h = blockIdx.z * kWarps + threadIdx.x / 32; h < a.n_heads; h += gridDim.z * kWarps) {
    const float* from = (blockIdx.y == 0 ? a.k : a.v) + (int64_t{row} * a.n_heads + h) * a.head_dim;
    int8_t* to = static_cast<int8_t*>(blockIdx.y == 0 ? a.k_cache.data : a.v_cache.data) +
                 (token * a.n_heads + h) * stride;
    unsigned largest = 0;  // bits of magnitudes order as the magnitudes do, NaN above all
    for (int i = lane; i < a.head_dim; i += 32)
      largest = max(largest, __float_as_uint(from[i]) & 0x7fffffffu);
    largest = __reduce_max_sync(0xffffffffu, largest);
    const float scale = __uint_as_float(largest) / 127.0f;
    const bool usable = largest < 0x7f800000u && scale > 1e-30f;
    const float by = usable ? 1.0f / scale : 0.0f;
    for (int i = lane; i < a.head_dim; i += 32)
      to[i] = static_cast<int8_t>(usable ? __float2int_rn(from[i] * by) : 0);
    if (lane == 0) *reinterpret_cast<float*>(to + a.head_dim) = scale;
  }
}

}  // namespace

cudaError_t launch_rotations(const PagedRows& rows, const float* inv_freq, int64_t half,
                             float* table, cudaStream_t stream) {
  rotations_kernel<<<static_cast<unsigned>(rows.n_rows), kBlock, 0, stream>>>(
      rows.positions, inv_freq, half, table);
  return cudaGetLastError();
}

cudaError_t launch_rope(const Rope& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.n_rows), static_cast<unsigned>(args.n_heads));
  return launch_early(args.overlaps, rope_kernel, grid, args.half <= 64 ? 64 : kBlock, stream,
                      args);
}

cudaError_t launch_store_kv(const StoreKv& args, cudaStream_t stream) {
  // A few rows are spread over more blocks.
  const int width = args.n_heads * args.head_dim, per_block = 4 * kBlock;
  const dim3 grid(static_cast<unsigned>(args.rows.n_rows), 2,
                  static_cast<unsigned>((width + per_block - 1) / per_block));
  switch (args.k_cache.type) {
    case Element::kF32:
      return launch_early(args.overlaps, store_kernel<float>, grid, kBlock, stream, args);
    case Element::kBf16:
      return launch_early(args.overlaps, store_kernel<bf16>, grid, kBlock, stream, args);
    case Element::kInt8:
      return launch_early(args.overlaps, store_codes_kernel, grid, kBlock, stream, args);
    case Element::kF16:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace deltacome::cuda
