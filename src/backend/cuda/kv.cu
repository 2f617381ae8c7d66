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

/// One head, by `n` threads.
__device__ void rotate(const float* cos, int64_t half, int thread, int n, float* head) {
  const float* sin = cos + half;
  for (int64_t i = thread; i < half; i += n) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cos[i] - b * sin[i];
    head[i + half] = b * cos[i] + a * sin[i];
  }
}

/// Grid (n_rows, n_heads), any block.
__global__ void rope_kernel(Rope args) {
  release_dependents();
  wait_for_inputs();
  const int64_t half = args.half;
  rotate(args.table + blockIdx.x * 2 * half, half, threadIdx.x, blockDim.x,
         args.x + (blockIdx.x * int64_t{gridDim.y} + blockIdx.y) * 2 * half);
}

/// One head of one token into a cache, by a warp.
template <class T>
__device__ void store_head(const float* from, int dim, T* to) {
  for (int i = threadIdx.x % 32; i < dim; i += 32) to[i] = from_float<T>(from[i]);
}
__device__ void store_head(const float* from, int dim, int8_t* to) {
  const int lane = threadIdx.x % 32;
  unsigned largest = 0;  // bits of magnitudes order as the magnitudes do, NaN above all
  for (int i = lane; i < dim; i += 32)
    largest = max(largest, __float_as_uint(from[i]) & 0x7fffffffu);
  largest = __reduce_max_sync(0xffffffffu, largest);
  const float scale = __uint_as_float(largest) / 127.0f;
  const bool usable = largest < 0x7f800000u && scale > 1e-30f;
  const float by = usable ? 1.0f / scale : 0.0f;
  for (int i = lane; i < dim; i += 32)
    to[i] = static_cast<int8_t>(usable ? __float2int_rn(from[i] * by) : 0);
  if (lane == 0) *reinterpret_cast<float*>(to + dim) = scale;
}

/// Grid (n_rows, heads of queries, keys and values / kWarps), block (kBlock); a warp has a head.
template <class T>
__global__ void store_kernel(StoreKv a) {
  release_dependents();
  wait_for_inputs();
  const int row = blockIdx.x, lane = threadIdx.x % 32, dim = a.head_dim;
  const int head = blockIdx.y * kWarps + threadIdx.x / 32 - a.rotated.n_heads;  // < 0: of q
  if (head >= 2 * a.n_heads) return;
  const bool is_value = head >= a.n_heads;
  float* x = head < 0
                 ? a.rotated.x + ((row + int64_t{1}) * a.rotated.n_heads + head) * dim
                 : (is_value ? a.v : a.k) + (int64_t{row} * a.n_heads + head % a.n_heads) * dim;
  if (a.rotated.table != nullptr && !is_value) {
    rotate(a.rotated.table + int64_t{row} * dim, dim / 2, lane, 32, x);
    __syncwarp();
  }
  if (head < 0) return;
  const int position = a.rows.positions[row];
  const int32_t* blocks = a.rows.blocks + a.rows.tables[row];
  const int64_t token =
      int64_t{blocks[position / kBlockTokens]} * kBlockTokens + position % kBlockTokens;
  const int stride = dim + (sizeof(T) == 1 ? 4 : 0);
  store_head(x, dim,
             static_cast<T*>(is_value ? a.v_cache.data : a.k_cache.data) +
                 (token * a.n_heads + head % a.n_heads) * stride);
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
  const auto n_heads = static_cast<unsigned>(args.rotated.n_heads + 2 * args.n_heads);
  const dim3 grid(static_cast<unsigned>(args.rows.n_rows), (n_heads + kWarps - 1) / kWarps);
  switch (args.k_cache.type) {
    case Element::kF32:
      return launch_early(args.overlaps, store_kernel<float>, grid, kBlock, stream, args);
    case Element::kBf16:
      return launch_early(args.overlaps, store_kernel<bf16>, grid, kBlock, stream, args);
    case Element::kInt8:
      return launch_early(args.overlaps, store_kernel<int8_t>, grid, kBlock, stream, args);
    case Element::kF16:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace deltacome::cuda
