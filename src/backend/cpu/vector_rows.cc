// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/vector_rows.h"

#include <array>
#include <cstring>
#include <numeric>
#include <vector>

#include "backend/cpu/gemm.h"
#include "backend/cpu/runtime.h"
#include "core/check.h"
#include "core/dtype.h"
#include "quant/vector_codes.h"

namespace deltacome::cpu {
namespace {

template <int kDim>
void decode_row(const std::byte* codes, const float* entries, float scale, int64_t n, float* out) {
  std::array<float, kDim> values;
  for (; n > 0; n -= kDim, out += kDim, ++codes) {
    const float* entry = entries + std::to_integer<size_t>(*codes) * kDim;
    for (size_t j = 0; j < kDim; ++j) values[j] = scale * entry[j];
    if (n < kDim) {  // the entry is cut at the end of the row
      std::memcpy(out, values.data(), static_cast<size_t>(n) * sizeof(float));
      return;
    }
    std::memcpy(out, values.data(), sizeof values);
  }
}

/// A book as floats: at most 16 KiB, so that it stays in a first-level cache.
template <int kDim>
const float* entries_of() {
  static const std::vector<float> entries = [] {
    std::vector<float> out;
    for (const int8_t entry : code_book(kDim)) out.push_back(static_cast<float>(entry) * kBookStep);
    return out;
  }();
  return entries.data();
}

}  // namespace

VectorRows::VectorRows(const MatrixFormat& format, const BlobLayout& layout, const std::byte* blob)
    : rows_(format.base_rows),
      cols_(format.n_in()),
      dim_(format.vector.dim),
      row_bytes_(ceil_div(cols_, dim_)),
      codes_(blob + layout.vector_codes.offset),
      scales_(blob + layout.row_scale.offset) {
  const auto use = [this]<int kDim>(std::integral_constant<int, kDim>) {
    if (dim_ != kDim) return;
    entries_ = entries_of<kDim>();
    decode_row_ = decode_row<kDim>;
  };
  [&]<size_t... kI>(std::index_sequence<kI...>) {
    (use(std::integral_constant<int, kBookDimensions[kI]>{}), ...);
  }
  (std::make_index_sequence<kBookDimensions.size()>{});
  DELTACOME_CHECK(decode_row_ != nullptr);
}

int64_t VectorRows::piece_cols() const noexcept {
  const int64_t unit = std::lcm(dim_, int64_t{16});
  return kInputBlock / unit * unit;
}

void VectorRows::decode(const CodedTile& tile, float* out) const {
  DELTACOME_CHECK(tile.first_col % dim_ == 0);
  DELTACOME_CHECK(tile.first_row + tile.n_rows <= rows_ && tile.first_col + tile.n_cols <= cols_);
  for (int64_t i = 0; i < tile.n_rows; ++i, out += tile.n_cols) {
    const int64_t row = tile.first_row + i;
    uint16_t scale;
    std::memcpy(&scale, scales_ + 2 * row, sizeof scale);
    decode_row_(codes_ + row * row_bytes_ + tile.first_col / dim_, entries_, f16_to_float(scale),
                tile.n_cols, out);
  }
}

}  // namespace deltacome::cpu
