// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels.h"
#include "quant/format.h"

namespace deltacome::cpu {

/// A part of a coded array.
struct CodedTile {
  int64_t first_row = 0;
  int64_t n_rows = 0;
  int64_t first_col = 0;  // of bit planes a multiple of 16, so that each starts on a byte
  int64_t n_cols = 0;
};

/// A coded array [rows, cols] inside a blob, decoded a tile at a time.
class CodedRows {
 public:
  CodedRows() = default;
  /// `blob` must outlive this.
  CodedRows(const ArrayFormat& format, int64_t rows, int64_t cols, const ArrayLayout& layout,
            const std::byte* blob);

  int64_t rows() const noexcept { return rows_; }
  int64_t cols() const noexcept { return cols_; }
  /// out[i, j] = element (first_row + i, first_col + j), rows out_stride apart, bitwise as
  /// decode() of quant. `scales`: scratch of n_cols floats.
  void decode(const Kernels& kernels, const CodedTile& tile, float* out, int64_t out_stride,
              float* scales) const;

 private:
  void decode_row(const Kernels& kernels, int64_t row, const CodedTile& tile, float* out,
                  const float* scales) const;
  void load_scales(const Kernels& kernels, int64_t scale_row, const CodedTile& tile,
                   float* scales) const;
  float scale_at(int64_t scale_row, int64_t col) const;
  /// Scale blocks cover whole groups of 16 codes, so that one scale serves each call of a kernel.
  bool whole_groups() const noexcept {
    return format_.scale_cols == 0 || format_.scale_cols % 16 == 0;
  }
  int64_t scale_row(int64_t row) const noexcept {
    return format_.scale_rows == 0 ? 0 : row / format_.scale_rows;
  }

  ArrayFormat format_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t scales_per_row_ = 1;
  const uint8_t* low_ = nullptr;       // plane of rows of low_bytes_; of 16 bits the elements
  const uint8_t* high_ = nullptr;      // of 3 bits the plane of the high bits
  const std::byte* scales_ = nullptr;  // f16 [scale rows, scales_per_row_]
  int64_t low_bytes_ = 0;
  int64_t high_bytes_ = 0;
};

}  // namespace deltacome::cpu
