// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/element.h"

namespace deltacome::cuda {

/// Weights as codes, by the arithmetic of the CPU: w = scale * (code - (2^bits - 1) / 2).
struct Quantize {
  Matrix weights;
  int bits = 8;                      // 8: a scale a row; 4: an fp16 scale for 128 inputs of a row
  uint8_t* codes = nullptr;          // [rows, cols], one a byte
  float* row_scales = nullptr;       // [rows], 8 bits
  uint16_t* group_scales = nullptr;  // [rows, ceil(cols / 128)], 4 bits
  int* bad_row = nullptr;            // becomes the least row with a weight that is not finite
};
cudaError_t launch_quantize(const Quantize& args, cudaStream_t stream);

/// Values of a QuantizedMatrix as 8-bit codes, the largest of 128 inputs at the end of their scale:
/// the value of column c of a row, whose code is i = code_of_column[c], is
///   scales[i / group] * (levels[from[i]] - zeros[i / group])
struct Requantize {
  const uint8_t* from = nullptr;            // [rows, cols]
  const float* levels = nullptr;            // [256], null: the codes themselves
  const float* scales = nullptr;            // [rows, ceil(cols / group)]
  const float* zeros = nullptr;             // the same, null: 0
  const int32_t* code_of_column = nullptr;  // [cols], null: their own
  int64_t rows = 0, cols = 0, group = 1;
  uint8_t* codes = nullptr;          // [rows, cols]
  uint16_t* group_scales = nullptr;  // [rows, ceil(cols / 128)]
  double* loss = nullptr;            // [rows][2]: squared error, and sum of squares
};
cudaError_t launch_requantize(const Requantize& args, cudaStream_t stream);

}  // namespace deltacome::cuda
