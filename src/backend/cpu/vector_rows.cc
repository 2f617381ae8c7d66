// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/vector_rows.h"

#include <cstring>
#include <map>
#include <numeric>
#include <vector>

#include "backend/cpu/gemm.h"
#include "backend/cpu/runtime.h"
#include "core/check.h"
#include "core/dtype.h"
#include "quant/vector_codes.h"

namespace deltacome::cpu {
namespace {

/// A book as floats: at most 16 KiB, so that it stays in a first-level cache.
const float* entries_of(int dim) {
  static const std::map<int, std::vector<float>> entries = [] {
    std::map<int, std::vector<float>> all;
    for (const int d : kBookDimensions) {
      for (const int8_t entry : code_book(d)) all[d].push_back(kBookStep * entry);
    }
    return all;
  }();
  return entries.at(dim).data();
}

/// A book for products of integers: elements plus 128, by entry [256, dim] and by element [dim,
/// 256].
struct ByteBook {
  AlignedVector<uint8_t> entries, planes;
};
const ByteBook& byte_book(int dim) {
  static const std::map<int, ByteBook> books = [] {
    std::map<int, ByteBook> all;
    for (const int d : kBookDimensions) {
      ByteBook& book = all[d];
      for (const int8_t entry : code_book(d))
        book.entries.push_back(static_cast<uint8_t>(entry + 128));
      for (int p = 0; p < d; ++p) {
        for (int c = 0; c < kBookEntries; ++c)
          book.planes.push_back(book.entries[static_cast<size_t>(c * d + p)]);
      }
    }
    return all;
  }();
  return books.at(dim);
}

}  // namespace

VectorRows::VectorRows(const MatrixFormat& format, const BlobLayout& layout, const std::byte* blob)
    : rows_(format.base_rows),
      cols_(format.n_in()),
      dim_(format.vector.dim),
      row_bytes_(ceil_div(cols_, dim_)),
      entries_(entries_of(dim_)),
      codes_(reinterpret_cast<const uint8_t*>(blob + layout.vector_codes.offset)),
      scales_(blob + layout.row_scale.offset),
      row_scale_(static_cast<size_t>(rows_)) {
  convert_to_float(scales_, DType::kF16, row_scale_);
}

void VectorRows::multiply(const PackedKernels& kernels, int64_t first, int64_t count,
                          std::span<const QuantizedRow* const> x, float* const* y) const {
  const ByteBook& book = byte_book(dim_);
  kernels.entry_dot({.dim = dim_,
                     .codes = codes_ + first * row_bytes_,
                     .n_codes = row_bytes_,
                     .n_rows = count,
                     .planes = book.planes.data(),
                     .entries = book.entries.data(),
                     .row_scale = row_scale_.data() + first,
                     .x = x.data(),
                     .y = y,
                     .n_tokens = static_cast<int64_t>(x.size()),
                     .y_first = first});
}

int64_t VectorRows::piece_cols() const noexcept {
  const int64_t unit = std::lcm(dim_, 16);
  return kInputBlock / unit * unit;
}

void VectorRows::decode(const Kernels& kernels, const CodedTile& tile, float* out) const {
  DELTACOME_CHECK(tile.first_col % dim_ == 0);
  DELTACOME_CHECK(tile.first_row + tile.n_rows <= rows_ && tile.first_col + tile.n_cols <= cols_);
  for (int64_t i = 0; i < tile.n_rows; ++i, out += tile.n_cols) {
    const int64_t row = tile.first_row + i;
    uint16_t scale;
    std::memcpy(&scale, scales_ + 2 * row, sizeof scale);
    kernels.decode_entries({.dim = dim_,
                            .codes = codes_ + row * row_bytes_ + tile.first_col / dim_,
                            .entries = entries_,
                            .scale = f16_to_float(scale),
                            .n = tile.n_cols,
                            .out = out});
  }
}

}  // namespace deltacome::cpu
