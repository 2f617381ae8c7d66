// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/element.h"

namespace deltacome::cuda {

// Ops that work on one row at a time. All pointers are in device memory; launchers return the
// launch's status.

/// y[i] = table[ids[i]]; ids [n], y [n, table.cols]. Ids beyond the table are left to who has them.
cudaError_t launch_embed(const Matrix& table, const int32_t* ids, int64_t n, float* y,
                         cudaStream_t stream);

/// A raw vector that a variant has of its own.
struct OwnVector {
  const float* values = nullptr;  // null: the row uses the base's
  int64_t n = 0;
};

/// y = x / sqrt(mean(x^2) + eps) * weight over pieces of `d` elements, `per_row` of them a row;
/// x, y [n_rows, per_row * d], weight [d] of type `type`. `own` (or null) [n_rows]: the weight
/// [d] that replaces it in a row. y may be x.
struct RmsNorm {
  const float* x = nullptr;
  float* y = nullptr;
  const void* weight = nullptr;
  Element type = Element::kF32;
  const OwnVector* own = nullptr;
  int64_t n_rows = 0, per_row = 0, d = 0;
  double eps = 0;
  bool overlaps = false;  // with what is before it: sm_90 or later
};
cudaError_t launch_rms_norm(const RmsNorm& args, cudaStream_t stream);

/// y[r][c] += bias[c], c < n; or own[r][c] where own (or null) has one for the row, which may be
/// longer: rows that the variant added have biases of their own. y [n_rows, stride], stride >= n.
struct Bias {
  float* y = nullptr;
  int64_t n_rows = 0, n = 0, stride = 0;
  const void* bias = nullptr;
  Element type = Element::kF32;
  const OwnVector* own = nullptr;
};
cudaError_t launch_bias(const Bias& args, cudaStream_t stream);

/// out = x rounded to bf16 or f16, n elements.
cudaError_t launch_round(const float* x, Element type, void* out, int64_t n, cudaStream_t stream);

}  // namespace deltacome::cuda
