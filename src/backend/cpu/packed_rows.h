// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/cpu/packed_kernels.h"
#include "quant/format.h"

namespace deltacome::cpu {

PackedShape packed_shape(int bits, int64_t cols, PackedScale scale);

/// A coded array [rows, cols] in the layout of the kernels, still packed. Up to 3 rows are padding,
/// and of each row the columns that fill a unit: at most 31 of 1 or 3 bits, 15 of 2, 7 of 4, 3 of 8
/// (four times that in the last rows, if their number is no multiple of 16).
class PackedRows {
 public:
  PackedRows() = default;
  PackedRows(PackedShape shape, int64_t n_rows);

  /// The array [rows, cols] of a blob; can_pack(format).
  static PackedRows of(const ArrayFormat& format, int64_t rows, int64_t cols,
                       const ArrayLayout& layout, std::span<const std::byte> blob);
  /// The transpose of the array [rank, n_out] of a blob: rows of `rank` columns;
  /// can_pack_transposed(format).
  static PackedRows transpose_of(const ArrayFormat& format, int64_t rank, int64_t n_out,
                                 const ArrayLayout& layout, std::span<const std::byte> blob);

  bool empty() const noexcept { return n_rows_ == 0; }
  int64_t rows() const noexcept { return n_rows_; }
  int64_t cols() const noexcept { return shape_.cols; }
  int64_t bytes() const noexcept;
  const PackedShape& shape() const noexcept { return shape_; }
  const uint8_t* codes() const noexcept { return bytes_.data(); }

  /// The first row of the panel that row r is in, and how many rows that has.
  struct Panel {
    int64_t first = 0, count = 0;
  };
  Panel panel_of(int64_t r) const noexcept;
  /// Packs a panel: codes [count, cols] a byte each; scales [count, n_groups] fp16, with kGroup.
  /// Panels may be set by different threads.
  void set_panel(const Panel& panel, const uint8_t* codes, const uint16_t* scales);

  float scale = 1;               // of all, kArray
  std::vector<float> row_scale;  // [rows], kRow
  /// Scales of columns instead: scale of column k in rows [i * column_rows, ...) is
  /// column_scale[i * cols + k]. The caller multiplies the input by them. Empty: none.
  std::vector<float> column_scale;
  int64_t column_rows = 0;

  /// Values of row r as floats, out [cols]; column scales are not applied.
  void decode_row(int64_t r, float* out) const;

 private:
  PackedShape shape_;
  int64_t n_rows_ = 0;
  AlignedVector<uint8_t> bytes_;
};

}  // namespace deltacome::cpu
