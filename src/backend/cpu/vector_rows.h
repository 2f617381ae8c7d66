// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/cpu/packed_kernels.h"
#include "quant/format.h"

namespace deltacome::cpu {

/// The global book of `dim`.
const EntryBook& entry_book(int dim);

/// The rows of a vector code [base_rows, n_in] in the order of the kernels, before the rotation is
/// undone: they multiply a rotated input.
class VectorRows {
 public:
  VectorRows() = default;
  VectorRows(const MatrixFormat& format, const BlobLayout& layout, const std::byte* blob);

  int64_t rows() const noexcept { return rows_; }
  int64_t cols() const noexcept { return cols_; }
  int dim() const noexcept { return dim_; }
  int64_t bytes() const noexcept {
    return static_cast<int64_t>(codes_.size() + sizeof(float) * row_scale_.size());
  }
  /// y[t][first + i] += row first + i times x[t], i < count; first is a multiple of kEntryRows, and
  /// so is count unless it is all that is left. x: all rows of a set that was quantized for dim().
  void multiply(const PackedKernels& kernels, int64_t first, int64_t count,
                std::span<const QuantizedRow* const> x, float* const* y) const;

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int dim_ = 1;
  int64_t n_codes_ = 0;           // of a row
  AlignedVector<uint8_t> codes_;  // in pieces (packed_kernels.h)
  std::vector<float> row_scale_;  // [rows]
};

}  // namespace deltacome::cpu
