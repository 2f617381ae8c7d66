// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/plain_product.h"

#include "backend/cuda/numbers.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 8;      // of a block
constexpr int kPlainRows = 8;  // rows of x of a block

/// Grid (ceil(n_out / kWarps), ceil(n_rows / kPlainRows)), block (32 * kWarps): a warp owns an
/// output of up to kPlainRows rows, its lanes stride over n_in.
template <class T>
__global__ void plain_kernel(const T* __restrict__ w,      // [n_out, n_in]
                             const float* __restrict__ x,  // [n_rows, n_in]
                             float* __restrict__ y,        // [n_rows, stride]
                             int64_t n_out, int64_t n_in, int64_t n_rows, int64_t stride) {
  const int lane = threadIdx.x % 32;
  const int64_t output = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (output >= n_out) return;
  const int64_t first = blockIdx.y * int64_t{kPlainRows};
  const int count = static_cast<int>(n_rows - first < kPlainRows ? n_rows - first : kPlainRows);
  float sum[kPlainRows] = {};
  for (int64_t k = lane; k < n_in; k += 32) {
    const float weight = to_float(w[output * n_in + k]);
#pragma unroll
    for (int r = 0; r < kPlainRows; ++r) {
      if (r < count) {
        const float v = x[(first + r) * n_in + k];
        sum[r] = fmaf(weight, to_float(from_float<T>(v)), sum[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kPlainRows; ++r) {
    const float total = sum_over<32>(sum[r]);
    if (lane == 0 && r < count) y[(first + r) * stride + output] = total;
  }
}

template <class T>
void plain(const Matrix& w, const float* x, int64_t n_rows, float* y, int64_t stride,
           cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((w.rows + kWarps - 1) / kWarps),
                  static_cast<unsigned>((n_rows + kPlainRows - 1) / kPlainRows));
  plain_kernel<T><<<grid, 32 * kWarps, 0, stream>>>(static_cast<const T*>(w.data), x, y, w.rows,
                                                    w.cols, n_rows, stride);
}

}  // namespace

cudaError_t launch_plain_product(const Matrix& w, const float* x, int64_t n_rows, float* y,
                                 int64_t stride, cudaStream_t stream) {
  if (n_rows == 0 || w.rows == 0) return cudaSuccess;
  if (w.type == Element::kF32) plain<float>(w, x, n_rows, y, stride, stream);
  if (w.type == Element::kBf16) plain<bf16>(w, x, n_rows, y, stride, stream);
  if (w.type == Element::kF16) plain<f16>(w, x, n_rows, y, stride, stream);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
