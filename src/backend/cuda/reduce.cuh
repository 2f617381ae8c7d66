// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace deltacome::cuda {

// Sums in one order, so that a result is the same in every run. Bodies are function objects: nvcc's
// kernels take them by value.

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

/// v of all threads of a block, joined; every thread gets it. block (a power of two, 32 to 1024).
template <class T, class Join>
__device__ T join_block(T v, Join join) {
  __shared__ T partial[32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v = join(v, __shfl_xor_sync(0xffffffffu, v, step));
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  __syncthreads();  // the call before has been read
  if (lane == 0) partial[warp] = v;
  __syncthreads();
  v = partial[lane % n_warps];
  for (int step = n_warps / 2; step > 0; step /= 2)
    v = join(v, __shfl_xor_sync(0xffffffffu, v, step));
  return v;
}

/// sums[row] = or += the sum of at(row, col) over a row, in double. Grid (n_rows), block (256).
template <bool kAdd, class T, class At>
__global__ void row_sums_kernel(At at, int64_t width, T* __restrict__ sums) {
  const int64_t row = blockIdx.x;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) sum += static_cast<double>(at(row, i));
  sum = join_block(sum, Plus());
  if (threadIdx.x == 0) sums[row] = static_cast<T>(kAdd ? sums[row] + sum : sum);
}

inline constexpr int kColumnSumRows = 64;  // that a thread adds

/// partial[piece, col] = the sum of at(row, col) over the rows of a piece. Grid (ceil(width / 256),
/// pieces), block (256): a thread has a column.
template <class At>
__global__ void column_sums_kernel(At at, int64_t n_rows, int64_t width,
                                   float* __restrict__ partial) {
  const int64_t col = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (col >= width) return;
  const int64_t first = blockIdx.y * int64_t{kColumnSumRows};
  const int64_t end = first + kColumnSumRows < n_rows ? first + kColumnSumRows : n_rows;
  float sum = 0;
  for (int64_t row = first; row < end; ++row) sum += at(row, col);
  partial[blockIdx.y * width + col] = sum;
}

inline int64_t column_sum_pieces(int64_t n_rows) {
  return (n_rows + kColumnSumRows - 1) / kColumnSumRows;
}

}  // namespace deltacome::cuda
