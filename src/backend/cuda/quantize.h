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

}  // namespace deltacome::cuda
