// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include "backend/cuda/delta_layout.h"

namespace deltacome::cuda {

// Codes and inputs as bf16 for the tensor cores' dense products: what many rows of one variant are
// multiplied with. Stream-ordered.

/// Rows [first, first + n) of a coded matrix times its factors, to `out` [n, stride]: columns up to
/// `cols` (a multiple of 8, at most 7 beyond the matrix's) are written, zeros where the matrix has
/// no element. One of:
///   tiles  matrix.codes, in the layout of delta_layout.h
///   array  `array` as it is stored, or its transpose, its rows times row_factor
struct DecodeJob {
  PackedMatrix matrix;
  PlainArray array;  // used if matrix.codes is null
  const float* row_factor = nullptr;
  bool transposed = false;
  int64_t first = 0, n = 0;
  int64_t cols = 0;
  void* out = nullptr;  // bf16, aligned to 16 bytes
  int64_t stride = 0;   // a multiple of 8
};
constexpr int kDecodeJobs = 16;
struct DecodeJobs {
  DecodeJob jobs[kDecodeJobs];
  int32_t starts[kDecodeJobs + 1] = {};  // unit at which a job begins; set by launch_decode()
  int n = 0;
};
cudaError_t launch_decode(DecodeJobs jobs, cudaStream_t stream);
/// The same of vector codes of dimension `dim`.
cudaError_t launch_decode_vectors(const DecodeJob& job, int dim, int n_sms, cudaStream_t stream);

/// x[rows[i]] * gains, rotated, as bf16.
struct PromptInput {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const int32_t* rows = nullptr;  // [n_rows]; null: row i is x[i]
  const float* gains = nullptr;   // [cols] or null
  uint64_t seed = 0;              // of the rotation's signs
  int32_t n_rows = 0;
  int32_t cols = 0;
  int32_t padded = 0;   // columns of `out`; zeros behind `cols`
  int32_t block = 0;    // size of the Hadamard blocks, at most 1024; 0: no rotation
  void* out = nullptr;  // bf16 [n_rows, padded]
};
cudaError_t launch_prompt_input(const PromptInput& input, cudaStream_t stream);

}  // namespace deltacome::cuda
