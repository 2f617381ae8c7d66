// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/dense.h"

#include "backend/cuda/numbers.cuh"
#include "backend/cuda/reduce.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kBlock = 256;
constexpr int kTile = 32;  // of a transposition, in shared memory

unsigned grid_of(int64_t n) {
  constexpr int64_t kMaxGrid = 16384;  // the loops stride over the rest
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  return static_cast<unsigned>(blocks < kMaxGrid ? blocks : kMaxGrid);
}
unsigned tiles(int64_t n) {
  return static_cast<unsigned>((n + kTile - 1) / kTile);
}

__device__ double element(const AnyMatrix& m, int64_t i) {
  if (m.is_f64) return static_cast<const double*>(m.data)[i];
  switch (m.type) {
    case Element::kF16:
      return static_cast<double>(to_float(static_cast<const f16*>(m.data)[i]));
    case Element::kBf16:
      return static_cast<double>(to_float(static_cast<const bf16*>(m.data)[i]));
    default:
      return static_cast<double>(static_cast<const float*>(m.data)[i]);
  }
}

/// out[i] = at(i). Grid (<= kMaxGrid), block (kBlock).
template <class At>
__global__ void elements_kernel(At at, double* out, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{kBlock} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kBlock) {
    out[i] = at(i);
  }
}
struct Difference {
  AnyMatrix a, b;
  __device__ double operator()(int64_t i) const { return element(a, i) - element(b, i); }
};
struct ElementProduct {
  const double *a, *b;
  __device__ double operator()(int64_t i) const { return a[i] * b[i]; }
};
struct Gathered {
  const double* a;
  const int64_t* rows;
  int64_t d;
  __device__ double operator()(int64_t i) const { return a[rows[i / d] * d + i % d]; }
};
struct DiagonalOf {
  const double* a;
  int64_t n;
  __device__ double operator()(int64_t i) const { return a[i * n + i]; }
};
struct RowProduct {
  const double *a, *b;
  int64_t d;
  __device__ double operator()(int64_t row, int64_t col) const {
    return a[row * d + col] * b[row * d + col];
  }
};

/// Grid (tiles, tiles) over the upper triangle of tiles, block (kTile, 8).
__global__ void add_gram_kernel(const float* __restrict__ piece, double* __restrict__ c,
                                int64_t d) {
  if (blockIdx.x < blockIdx.y) return;
  __shared__ double tile[kTile][kTile + 1];
  const int64_t col = blockIdx.x * int64_t{kTile} + threadIdx.x;
  for (int64_t i = threadIdx.y; i < kTile; i += blockDim.y) {
    const int64_t row = blockIdx.y * int64_t{kTile} + i;
    if (row >= d || col >= d || col < row) continue;
    const double sum = c[row * d + col] + static_cast<double>(piece[row * d + col]);
    c[row * d + col] = sum;
    tile[i][threadIdx.x] = sum;
  }
  __syncthreads();
  const int64_t to_col = blockIdx.y * int64_t{kTile} + threadIdx.x;
  for (int64_t i = threadIdx.y; i < kTile; i += blockDim.y) {
    const int64_t to_row = blockIdx.x * int64_t{kTile} + i;
    if (to_row < d && to_col < to_row) c[to_row * d + to_col] = tile[threadIdx.x][i];
  }
}

__global__ void scale_kernel(double* a, int64_t n, int64_t d, const double* rows,
                             const double* cols) {
  const int64_t col = blockIdx.x * int64_t{kBlock} + threadIdx.x;
  if (col >= d) return;
  const double by_col = cols == nullptr ? 1 : cols[col];
  for (int64_t row = blockIdx.y; row < n; row += gridDim.y)
    a[row * d + col] *= rows == nullptr ? by_col : rows[row] * by_col;
}

/// Grid (tiles of d, tiles of n), block (kTile, 8).
template <class T>
__global__ void transpose_kernel(const T* __restrict__ a, int64_t n, int64_t d,
                                 T* __restrict__ out) {
  __shared__ T tile[kTile][kTile + 1];
  const int64_t col = blockIdx.x * int64_t{kTile} + threadIdx.x;
  for (int64_t i = threadIdx.y; i < kTile; i += blockDim.y) {
    const int64_t row = blockIdx.y * int64_t{kTile} + i;
    if (row < n && col < d) tile[i][threadIdx.x] = a[row * d + col];
  }
  __syncthreads();
  const int64_t to_col = blockIdx.y * int64_t{kTile} + threadIdx.x;
  for (int64_t i = threadIdx.y; i < kTile; i += blockDim.y) {
    const int64_t to_row = blockIdx.x * int64_t{kTile} + i;
    if (to_row < d && to_col < n) out[to_row * n + to_col] = tile[threadIdx.x][i];
  }
}

template <class T>
cudaError_t transpose(const T* a, int64_t n, int64_t d, T* out, cudaStream_t stream) {
  if (n == 0 || d == 0) return cudaSuccess;
  transpose_kernel<<<dim3(tiles(d), tiles(n)), dim3(kTile, 8), 0, stream>>>(a, n, d, out);
  return cudaGetLastError();
}

__global__ void reverse_rows_kernel(double* a, int64_t n, int64_t d) {
  const int64_t total = n / 2 * d;
  for (int64_t i = blockIdx.x * int64_t{kBlock} + threadIdx.x; i < total;
       i += int64_t{gridDim.x} * kBlock) {
    const int64_t other = (n - 1 - i / d) * d + i % d;
    const double v = a[i];
    a[i] = a[other];
    a[other] = v;
  }
}

__global__ void add_diagonal_kernel(double* a, int64_t n, const double* values) {
  const int64_t i = blockIdx.x * int64_t{kBlock} + threadIdx.x;
  if (i < n) a[i * n + i] += values[i];
}

template <class At>
cudaError_t elements(const At& at, double* out, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  elements_kernel<<<grid_of(n), kBlock, 0, stream>>>(at, out, n);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_subtract(const AnyMatrix& a, const AnyMatrix& b, double* out, int64_t n,
                            cudaStream_t stream) {
  return elements(Difference{a, b}, out, n, stream);
}

cudaError_t launch_add_gram(const float* piece, double* c, int64_t d, cudaStream_t stream) {
  if (d == 0) return cudaSuccess;
  add_gram_kernel<<<dim3(tiles(d), tiles(d)), dim3(kTile, 8), 0, stream>>>(piece, c, d);
  return cudaGetLastError();
}

cudaError_t launch_scale(double* a, int64_t n, int64_t d, const double* rows, const double* cols,
                         cudaStream_t stream) {
  if (n == 0 || d == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((d + kBlock - 1) / kBlock),
                  static_cast<unsigned>(n < 16384 ? n : 16384));
  scale_kernel<<<grid, kBlock, 0, stream>>>(a, n, d, rows, cols);
  return cudaGetLastError();
}

cudaError_t launch_multiply(const double* a, const double* b, double* out, int64_t n,
                            cudaStream_t stream) {
  return elements(ElementProduct{a, b}, out, n, stream);
}

cudaError_t launch_row_dots(const double* a, const double* b, int64_t n, int64_t d, double* sums,
                            cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  row_sums_kernel<false>
      <<<static_cast<unsigned>(n), kBlock, 0, stream>>>(RowProduct{a, b, d}, d, sums);
  return cudaGetLastError();
}

cudaError_t launch_transpose(const double* a, int64_t n, int64_t d, double* out,
                             cudaStream_t stream) {
  return transpose(a, n, d, out, stream);
}

cudaError_t launch_transpose(const float* a, int64_t n, int64_t d, float* out,
                             cudaStream_t stream) {
  return transpose(a, n, d, out, stream);
}

cudaError_t launch_reverse_rows(double* a, int64_t n, int64_t d, cudaStream_t stream) {
  if (n < 2) return cudaSuccess;
  reverse_rows_kernel<<<grid_of(n / 2 * d), kBlock, 0, stream>>>(a, n, d);
  return cudaGetLastError();
}

cudaError_t launch_gather_rows_f64(const double* a, const int64_t* rows, double* out, int64_t n,
                                   int64_t d, cudaStream_t stream) {
  return elements(Gathered{a, rows, d}, out, n * d, stream);
}

cudaError_t launch_diagonal(const double* a, int64_t n, double* values, cudaStream_t stream) {
  return elements(DiagonalOf{a, n}, values, n, stream);
}

cudaError_t launch_add_diagonal(double* a, int64_t n, const double* values, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  add_diagonal_kernel<<<grid_of(n), kBlock, 0, stream>>>(a, n, values);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
