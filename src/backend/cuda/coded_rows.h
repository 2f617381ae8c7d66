// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include "backend/cuda/delta_layout.h"

namespace deltacome::cuda {

// What coded matrices of checkpoints in low precision need beside the kernels of deltas: zeros that
// differ by group, and an order of columns. Stream-ordered.

/// y[t][o] = sum over g of zeros[o][g] * (sum of the inputs of group g of row t), or 0 for a target
/// without zeros: what the products of codes are added to.
struct FirstSums {
  struct Target {
    const float* zeros = nullptr;  // [n_out, n_sums] or null
    int64_t n_sums = 0;            // `groups`, or 1: of all inputs
    float* y = nullptr;            // [n_rows, stride]
    int64_t n_out = 0, stride = 0;
  };
  Target targets[kMaxTargets];
  int n_targets = 0;
  int64_t n_rows = 0, groups = 0;
  const float2* inputs = nullptr;  // [n_rows, groups] scale and sum of codes; null: no zeros
};
cudaError_t launch_first_sums(const FirstSums& args, cudaStream_t stream);

/// Rows [first, first + n) of a matrix with zeros as bf16 [n, cols]: cols are a multiple of 8, at
/// most 7 beyond the matrix's, which are zeros. `first` is a multiple of 128.
struct DecodeZeros {
  PackedMatrix matrix;
  const float* zeros = nullptr;  // [rows, n_sums]
  int64_t n_sums = 0;            // groups of a row, or 1
  int64_t first = 0, n = 0;
  int64_t cols = 0;
  void* out = nullptr;  // aligned to 16 bytes
};
cudaError_t launch_decode_zeros(const DecodeZeros& args, cudaStream_t stream);

/// y[t][i] = x[t][order[i]]; x, y [n_rows, n], y not x.
cudaError_t launch_gather_columns(const float* x, int64_t n_rows, int64_t n, const int32_t* order,
                                  float* y, cudaStream_t stream);

}  // namespace deltacome::cuda
