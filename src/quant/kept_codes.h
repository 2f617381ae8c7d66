// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "quant/quantized_matrix.h"

namespace deltacome {

/// What a backend that keeps the codes of a QuantizedMatrix as they are holds beside them. Its
/// kernels multiply groups of kActivationGroup inputs, by
///   w = scale * (code - center) + zero
struct KeptCodes {
  bool by_row = false;                 // a scale a row; else one a group, in fp16
  int64_t n_sums = 0;                  // groups of a row, by_row: 1
  std::vector<float> row_scales;       // [n_out], by_row
  std::vector<uint16_t> group_scales;  // fp16 [n_out, n_sums], not by_row
  std::vector<float> zeros;            // [n_out, n_sums]; empty: all 0
  double relative_error = 0;           // of the scales' rounding to fp16: ||held - W|| / ||W||

  /// Codes, scales, zeros and order of the matrix, without padding.
  int64_t bytes_of(const QuantizedMatrix& matrix) const noexcept;
};

/// Whether codes and scales fit such a layout: uniform codes with a scale a row, or one for each
/// group of a multiple of kActivationGroup inputs.
bool keeps_codes(const QuantizedMatrix& matrix) noexcept;
/// Requires keeps_codes(matrix).
KeptCodes kept_codes(const QuantizedMatrix& matrix, float center);

/// The zero that all groups share, if they do: a layout with that center needs no zeros.
bool has_one_zero(const QuantizedMatrix& matrix, float& zero) noexcept;

}  // namespace deltacome
