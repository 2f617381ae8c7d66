// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/coded_rows.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/runtime.h"
#include "core/check.h"
#include "core/dtype.h"

namespace deltacome::cpu {

CodedRows::CodedRows(const ArrayFormat& format, int64_t rows, int64_t cols,
                     const ArrayLayout& layout, const std::byte* blob)
    : format_(format),
      rows_(rows),
      cols_(cols),
      scales_per_row_(format.scale_cols == 0 ? 1 : ceil_div(cols, format.scale_cols)),
      low_(reinterpret_cast<const uint8_t*>(blob + layout.codes.offset)),
      scales_(blob + layout.scales.offset),
      low_bytes_(ceil_div(cols * (format.bits == 3 ? 2 : format.bits), 8)) {
  if (format.bits == 3) {
    high_ = low_ + rows * low_bytes_;
    high_bytes_ = ceil_div(cols, 8);
  }
}

float CodedRows::scale_at(int64_t scale_row, int64_t col) const {
  const int64_t block = format_.scale_cols == 0 ? 0 : col / format_.scale_cols;
  uint16_t bits;
  std::memcpy(&bits, scales_ + 2 * (scale_row * scales_per_row_ + block), sizeof bits);
  return f16_to_float(bits);
}

void CodedRows::load_scales(const Kernels& kernels, int64_t scale_row, const CodedTile& tile,
                            float* scales) const {
  if (format_.scale_cols == 1) {
    kernels.convert(WeightType::kF16, scales_ + 2 * (scale_row * scales_per_row_ + tile.first_col),
                    tile.n_cols, scales);
    return;
  }
  for (int64_t j = 0; j < tile.n_cols; ++j) scales[j] = scale_at(scale_row, tile.first_col + j);
}

void CodedRows::decode_row(const Kernels& kernels, int64_t row, const CodedTile& tile, float* out,
                           const float* scales) const {
  const auto decode_piece = [&](int64_t first, int64_t n, float scale, const float* each) {
    kernels.decode(
        {.bits = format_.bits,
         .low = low_ + row * low_bytes_ + first * (format_.bits == 3 ? 2 : format_.bits) / 8,
         .high = high_ == nullptr ? nullptr : high_ + row * high_bytes_ + first / 8,
         .n = n,
         .scale = scale,
         .scales = each,
         .out = out + (first - tile.first_col)});
  };
  if (!whole_groups()) return decode_piece(tile.first_col, tile.n_cols, 1, scales);
  const int64_t end = tile.first_col + tile.n_cols;
  const int64_t block = format_.scale_cols == 0 ? std::max<int64_t>(end, 1) : format_.scale_cols;
  for (int64_t first = tile.first_col; first < end;) {
    const int64_t next = std::min(end, (first / block + 1) * block);
    decode_piece(first, next - first, scale_at(scale_row(row), first), nullptr);
    first = next;
  }
}

void CodedRows::decode(const Kernels& kernels, const CodedTile& tile, float* out,
                       int64_t out_stride, float* scales) const {
  DELTACOME_CHECK(tile.first_col % 16 == 0);
  DELTACOME_CHECK(tile.first_row + tile.n_rows <= rows_ && tile.first_col + tile.n_cols <= cols_);
  if (tile.n_cols == 0) return;
  int64_t loaded = -1;  // scale row in `scales`
  for (int64_t i = 0; i < tile.n_rows; ++i, out += out_stride) {
    const int64_t row = tile.first_row + i;
    if (format_.bits == 16) {
      kernels.convert(WeightType::kF16, low_ + row * low_bytes_ + 2 * tile.first_col, tile.n_cols,
                      out);
      continue;
    }
    if (!whole_groups() && scale_row(row) != loaded) {
      loaded = scale_row(row);
      load_scales(kernels, loaded, tile, scales);
    }
    decode_row(kernels, row, tile, out, scales);
  }
}

}  // namespace deltacome::cpu
