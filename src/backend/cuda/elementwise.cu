// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/elementwise.h"

#include "backend/cuda/overlap.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kBlock = 256;         // threads; memory-bound kernels are flat from 128 to 512
constexpr int64_t kMaxGrid = 4096;  // blocks; the loops stride over the rest

unsigned grid_for(int64_t n) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  return static_cast<unsigned>(blocks < kMaxGrid ? blocks : kMaxGrid);
}

/// Grid-stride loops: grid (<= kMaxGrid), block (kBlock), any n.
__global__ void add_kernel(const float* __restrict__ x, float* __restrict__ y, int64_t n) {
  release_dependents();
  wait_for_inputs();
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    y[i] += x[i];
  }
}

__global__ void silu_mul_kernel(const float* gate, const float* up, float* out, int64_t n) {
  release_dependents();
  wait_for_inputs();
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    const float g = gate[i];
    out[i] = g / (1.0f + expf(-g)) * up[i];
  }
}

__global__ void gather_rows_kernel(const float* __restrict__ x, const int32_t* __restrict__ rows,
                                   float* __restrict__ y, int64_t n, int64_t cols) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    y[i] = x[rows[i / cols] * cols + i % cols];
  }
}

}  // namespace

cudaError_t launch_add(const float* x, float* y, int64_t n, bool overlaps, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  return launch_early(overlaps, add_kernel, grid_for(n), kBlock, stream, x, y, n);
}

cudaError_t launch_silu_mul(const float* gate, const float* up, float* out, int64_t n,
                            bool overlaps, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  return launch_early(overlaps, silu_mul_kernel, grid_for(n), kBlock, stream, gate, up, out, n);
}

cudaError_t launch_gather_rows(const float* x, const int32_t* rows, float* y, int64_t n_rows,
                               int64_t cols, cudaStream_t stream) {
  const int64_t n = n_rows * cols;
  if (n == 0) return cudaSuccess;
  gather_rows_kernel<<<grid_for(n), kBlock, 0, stream>>>(x, rows, y, n, cols);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
