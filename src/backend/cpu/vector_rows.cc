// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/vector_rows.h"

#include <map>

#include "backend/cpu/runtime.h"
#include "core/dtype.h"
#include "quant/vector_codes.h"

namespace deltacome::cpu {
namespace {

static_assert(kEntryBookSize == kBookEntries);

struct OwnedBook {
  AlignedVector<uint8_t> entries, planes, quads;
  EntryBook view;
};

OwnedBook make_book(int dim) {
  OwnedBook out;
  const std::span<const int8_t> book = code_book(dim);
  const int64_t n = entry_bytes(dim);
  out.planes.resize(static_cast<size_t>(n * kEntryBookSize));
  out.quads.resize(out.planes.size());
  for (const int8_t element : book) out.entries.push_back(static_cast<uint8_t>(element + 128));
  for (int64_t c = 0; c < kEntryBookSize; ++c) {
    const int64_t place = c / 64 * 64 + c / 4 % 4 * 16 + c / 16 % 4 * 4 + c % 4;
    for (int64_t p = 0; p < dim; ++p) {
      const uint8_t element = out.entries[static_cast<size_t>(c * dim + p)];
      out.planes[static_cast<size_t>(p * kEntryBookSize + c)] = element;
      out.quads[static_cast<size_t>((p / 4 * kEntryBookSize + place) * 4 + p % 4)] = element;
    }
  }
  out.view = {dim, entry_levels(dim), out.entries.data(), out.planes.data(), out.quads.data()};
  return out;
}

}  // namespace

const EntryBook& entry_book(int dim) {
  static const std::map<int, OwnedBook> books = [] {
    std::map<int, OwnedBook> all;
    for (const int d : kBookDimensions) all.emplace(d, make_book(d));
    return all;
  }();
  return books.at(dim).view;
}

VectorRows::VectorRows(const MatrixFormat& format, const BlobLayout& layout, const std::byte* blob)
    : rows_(format.base_rows),
      cols_(format.n_in()),
      dim_(format.vector.dim),
      n_codes_(ceil_div(cols_, dim_)),
      codes_(static_cast<size_t>(entry_offset(rows_, entry_pieces(n_codes_), 0))),
      row_scale_(static_cast<size_t>(rows_)) {
  convert_to_float(blob + layout.row_scale.offset, DType::kF16, row_scale_);
  const auto* stored = reinterpret_cast<const uint8_t*>(blob + layout.vector_codes.offset);
  for (int64_t piece = 0; piece < entry_pieces(n_codes_); ++piece) {
    const int64_t first = piece * kEntryPiece, n = std::min(kEntryPiece, n_codes_ - first);
    for (int64_t row = 0; row < rows_; row += kEntryRows) {
      uint8_t* to = codes_.data() + entry_offset(rows_, piece, row);
      const int64_t width = entry_block_rows(rows_, row);
      for (int64_t r = 0; r < std::min(kEntryRows, rows_ - row); ++r) {
        const uint8_t* from = stored + (row + r) * n_codes_ + first;
        for (int64_t j = 0; j < n; ++j) to[j * width + r] = from[j];
      }
    }
  }
}

void VectorRows::multiply(const PackedKernels& kernels, int64_t first, int64_t count,
                          std::span<const QuantizedRow* const> x, float* const* y) const {
  const auto n_tokens = static_cast<int64_t>(x.size());
  kernels.entry_dot({.book = &entry_book(dim_),
                     .codes = codes_.data(),
                     .n_codes = n_codes_,
                     .n_rows = rows_,
                     .first = first,
                     .count = count,
                     .row_scale = row_scale_.data() + first,
                     .x = x.data(),
                     .y = y,
                     .n_tokens = n_tokens,
                     .y_first = first,
                     .scratch = thread_scratch(entry_scratch(dim_, n_tokens)).data()});
}

}  // namespace deltacome::cpu
