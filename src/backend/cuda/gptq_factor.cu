// SPDX-License-Identifier: Apache-2.0
// The factor's columns are in an order of their own: into it and back.
#include "backend/cuda/gptq_kernels.h"

namespace deltacome::cuda {
namespace {

constexpr int kBlock = 256;

unsigned grid_of(int64_t n) {
  constexpr int64_t kMaxGrid = 16384;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  return static_cast<unsigned>(blocks < kMaxGrid ? blocks : kMaxGrid);
}

/// Grid-stride over n * n.
__global__ void permute_reversed_kernel(const double* __restrict__ h,
                                        const int64_t* __restrict__ order, double add,
                                        double* __restrict__ out, int64_t n) {
  for (int64_t at = blockIdx.x * int64_t{kBlock} + threadIdx.x; at < n * n;
       at += int64_t{gridDim.x} * kBlock) {
    const int64_t i = at / n, j = at % n;
    out[at] = h[order[n - 1 - i] * n + order[n - 1 - j]] + (i == j ? add : 0.0);
  }
}

__global__ void pivots_kernel(const double* __restrict__ a, double* __restrict__ pivots,
                              int64_t n) {
  const int64_t i = blockIdx.x * int64_t{kBlock} + threadIdx.x;
  if (i < n) pivots[i] = a[(n - 1 - i) * (n + 1)];
}

/// Elements (i, j) and (n - 1 - i, n - 1 - j) change places: one thread each pair.
__global__ void finish_factor_kernel(double* __restrict__ a, const double* __restrict__ pivots,
                                     int64_t n) {
  const int64_t pairs = (n * n + 1) / 2;
  for (int64_t at = blockIdx.x * int64_t{kBlock} + threadIdx.x; at < pairs;
       at += int64_t{gridDim.x} * kBlock) {
    const int64_t other = n * n - 1 - at;
    const double here = a[at], there = a[other];
    const auto element = [&](int64_t to, double from) {
      const int64_t i = to / n, j = to % n;
      return j < i ? 0.0 : j == i ? 1.0 : from / pivots[i];
    };
    a[at] = element(at, there);
    a[other] = element(other, here);
  }
}

/// Grid (ceil(n / kBlock), <= rows).
template <bool kUndo>
__global__ void order_kernel(const double* __restrict__ from, const int64_t* __restrict__ order,
                             double* __restrict__ to, int64_t rows, int64_t n) {
  const int64_t j = blockIdx.x * int64_t{kBlock} + threadIdx.x;
  if (j >= n) return;
  const int64_t original = order[j];
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    if (kUndo) {
      to[row * n + original] = from[row * n + j];
    } else {
      to[row * n + j] = from[row * n + original];
    }
  }
}

dim3 order_grid(int64_t rows, int64_t n) {
  return dim3(static_cast<unsigned>((n + kBlock - 1) / kBlock),
              static_cast<unsigned>(rows < 16384 ? rows : 16384));
}

}  // namespace

cudaError_t launch_permute_reversed(const double* h, const int64_t* order, double add, double* out,
                                    int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  permute_reversed_kernel<<<grid_of(n * n), kBlock, 0, stream>>>(h, order, add, out, n);
  return cudaGetLastError();
}

cudaError_t launch_finish_factor(double* a, double* pivots, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  pivots_kernel<<<grid_of(n), kBlock, 0, stream>>>(a, pivots, n);
  finish_factor_kernel<<<grid_of((n * n + 1) / 2), kBlock, 0, stream>>>(a, pivots, n);
  return cudaGetLastError();
}

cudaError_t launch_take_order(const double* from, const int64_t* order, double* to, int64_t rows,
                              int64_t n, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  order_kernel<false><<<order_grid(rows, n), kBlock, 0, stream>>>(from, order, to, rows, n);
  return cudaGetLastError();
}

cudaError_t launch_undo_order(const double* from, const int64_t* order, double* to, int64_t rows,
                              int64_t n, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  order_kernel<true><<<order_grid(rows, n), kBlock, 0, stream>>>(from, order, to, rows, n);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
