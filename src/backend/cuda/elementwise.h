// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace deltacome::cuda {

// Kernels and their launchers are plain CUDA: no fmt, no exceptions. A launcher returns the
// launch's status.

/// y[i] += x[i]; n elements f32. Stream-ordered. `overlaps`: the kernel may begin before the one
/// before it has ended, and waits for it (sm_90 or later).
cudaError_t launch_add(const float* x, float* y, int64_t n, bool overlaps, cudaStream_t stream);
/// out[i] = silu(gate[i]) * up[i]; out may be gate.
cudaError_t launch_silu_mul(const float* gate, const float* up, float* out, int64_t n,
                            bool overlaps, cudaStream_t stream);
/// y[i] = x[rows[i]]; rows [n_rows] i32 in device memory, x [*, cols], y [n_rows, cols] f32.
cudaError_t launch_gather_rows(const float* x, const int32_t* rows, float* y, int64_t n_rows,
                               int64_t cols, cudaStream_t stream);

}  // namespace deltacome::cuda
