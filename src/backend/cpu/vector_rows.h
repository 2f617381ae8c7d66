// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/cpu/packed_kernels.h"
#include "quant/format.h"

namespace deltacome::cpu {

/// The rows of a vector code [base_rows, n_in] inside a blob, before the rotation is undone:
/// they multiply a rotated input.
class VectorRows {
 public:
  VectorRows() = default;
  /// `blob` must outlive this.
  VectorRows(const MatrixFormat& format, const BlobLayout& layout, const std::byte* blob);

  int64_t rows() const noexcept { return rows_; }
  int64_t cols() const noexcept { return cols_; }
  int dim() const noexcept { return dim_; }
  /// Bytes beside the blob's.
  int64_t own_bytes() const noexcept {
    return static_cast<int64_t>(sizeof(float) * row_scale_.size());
  }
  /// y[t][first + i] += row first + i times x[t], i < count; x was quantized for dim().
  void multiply(const PackedKernels& kernels, int64_t first, int64_t count,
                std::span<const QuantizedRow* const> x, float* const* y) const;

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int dim_ = 1;
  int64_t row_bytes_ = 0;
  const uint8_t* codes_ = nullptr;  // [rows, ceil(cols / dim)]
  std::vector<float> row_scale_;    // [rows]
};

}  // namespace deltacome::cpu
