// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace deltacome::cuda {

/// An array of codes as it is stored (quant/format.h), decoded: out[r * row_step + c * col_step] =
/// value * row_gain * col_gain * s, each where it is there. Pointers are in device memory.
struct StoredArray {
  const uint8_t* codes = nullptr;
  const uint16_t* scales = nullptr;  // f16
  int bits = 16;
  int64_t rows = 0, cols = 0;
  int64_t scale_rows = 1, scale_cols = 0;  // 0 = all
  const uint8_t* gains = nullptr;          // [cols], codes of gains
  const uint16_t* s = nullptr;             // bf16 [rows]
  float* out = nullptr;
  int64_t row_step = 0, col_step = 1;
};
cudaError_t launch_decode_array(const StoredArray& array, cudaStream_t stream);

/// A vector code as it is stored: out [rows, n_in] = row scale * entries * R^T, times the columns'
/// gains if they are there.
struct StoredVectors {
  const uint8_t* codes = nullptr;    // [rows, ceil(n_in / dim)]
  const uint16_t* scales = nullptr;  // f16 [rows]
  const uint8_t* gains = nullptr;    // [n_in]
  const int8_t* book = nullptr;      // [256, dim]
  int dim = 8;
  int64_t rows = 0, n_in = 0, block = 1;
  uint64_t seed = 0;
  float* out = nullptr;
};
cudaError_t launch_decode_vectors(const StoredVectors& vectors, cudaStream_t stream);

/// Rows of a [n, d] f64 become w R: times signs [d], then Hadamard blocks of `block`, a power of
/// two up to 1024.
cudaError_t launch_rotate_rows(double* a, int64_t n, int64_t d, const float* signs, int64_t block,
                               cudaStream_t stream);

}  // namespace deltacome::cuda
