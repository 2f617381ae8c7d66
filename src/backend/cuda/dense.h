// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/element.h"

namespace deltacome::cuda {

// Kernels of the dense algebra of compression, see CompressionOps. All pointers are in device
// memory, matrices row-major and f64 unless said; launchers return the launch's status.

/// A matrix of any floating type, f64 too.
struct AnyMatrix {
  const void* data = nullptr;
  Element type = Element::kF32;
  bool is_f64 = false;
};
/// out[i] = a[i] - b[i]; n elements.
cudaError_t launch_subtract(const AnyMatrix& a, const AnyMatrix& b, double* out, int64_t n,
                            cudaStream_t stream);
/// The symmetric c [d, d] += piece, of which the upper triangle is there, f32.
cudaError_t launch_add_gram(const float* piece, double* c, int64_t d, cudaStream_t stream);
/// a[i][j] *= rows[i] cols[j]; null = 1.
cudaError_t launch_scale(double* a, int64_t n, int64_t d, const double* rows, const double* cols,
                         cudaStream_t stream);
/// out[i] = a[i] b[i]; n elements.
cudaError_t launch_multiply(const double* a, const double* b, double* out, int64_t n,
                            cudaStream_t stream);
/// sums[i] = sum_j a[i, j] b[i, j].
cudaError_t launch_row_dots(const double* a, const double* b, int64_t n, int64_t d, double* sums,
                            cudaStream_t stream);
/// out [d, n] = a^T; a [n, d].
cudaError_t launch_transpose(const double* a, int64_t n, int64_t d, double* out,
                             cudaStream_t stream);
cudaError_t launch_transpose(const float* a, int64_t n, int64_t d, float* out, cudaStream_t stream);
/// Rows i and n - 1 - i change places.
cudaError_t launch_reverse_rows(double* a, int64_t n, int64_t d, cudaStream_t stream);
/// out[i] = a[rows[i]]; out [n, d].
cudaError_t launch_gather_rows_f64(const double* a, const int64_t* rows, double* out, int64_t n,
                                   int64_t d, cudaStream_t stream);
/// values[i] = a[i, i], or a[i, i] += values[i].
cudaError_t launch_diagonal(const double* a, int64_t n, double* values, cudaStream_t stream);
cudaError_t launch_add_diagonal(double* a, int64_t n, const double* values, cudaStream_t stream);

}  // namespace deltacome::cuda
