// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/vector_rows.h"

#include <map>

#include "backend/cpu/runtime.h"
#include "core/dtype.h"
#include "quant/vector_codes.h"

namespace deltacome::cpu {
namespace {

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
      for (int64_t p = 0; p < d; ++p) {
        for (int64_t c = 0; c < kBookEntries; ++c)
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
      codes_(reinterpret_cast<const uint8_t*>(blob + layout.vector_codes.offset)),
      row_scale_(static_cast<size_t>(rows_)) {
  convert_to_float(blob + layout.row_scale.offset, DType::kF16, row_scale_);
}

void VectorRows::multiply(const PackedKernels& kernels, int64_t first, int64_t count,
                          std::span<const QuantizedRow* const> x, float* const* y) const {
  const ByteBook& book = byte_book(dim_);
  const auto n_tokens = static_cast<int64_t>(x.size());
  kernels.entry_dot({.dim = dim_,
                     .codes = codes_ + first * row_bytes_,
                     .n_codes = row_bytes_,
                     .n_rows = count,
                     .planes = book.planes.data(),
                     .entries = book.entries.data(),
                     .row_scale = row_scale_.data() + first,
                     .x = x.data(),
                     .y = y,
                     .n_tokens = n_tokens,
                     .y_first = first,
                     .scratch = thread_scratch(entry_scratch(row_bytes_, dim_, n_tokens)).data()});
}

}  // namespace deltacome::cpu
