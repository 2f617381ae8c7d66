// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/element.h"

namespace deltacome::cuda {

/// y = x W^T for any type (f32: x is not rounded), number of rows and n_in, sums in f32; slower
/// than launch_skinny() and cuBLASLt. y [n_rows, >= w.rows], `stride` elements between rows.
cudaError_t launch_plain_product(const Matrix& w, const float* x, int64_t n_rows, float* y,
                                 int64_t stride, cudaStream_t stream);

}  // namespace deltacome::cuda
