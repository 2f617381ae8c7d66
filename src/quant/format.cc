// SPDX-License-Identifier: Apache-2.0
#include "quant/format.h"

#include <algorithm>

#include "core/check.h"
#include "quant/vector_codes.h"

namespace deltacome {
namespace {

constexpr int64_t kMaxExtent = int64_t{1} << 31;  // rows or columns
// Of a matrix: bytes, at most 8 an element and its scale, stay far below 2^63.
constexpr int64_t kMaxElements = int64_t{1} << 56;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int64_t blocks(int64_t extent, int64_t per_block) {
  return per_block == 0 ? 1 : ceil_div(extent, per_block);
}

/// Hands out aligned parts one after another.
class Cursor {
 public:
  Part take(int64_t bytes) {
    const Part part{end_, bytes};
    end_ = ceil_div(end_ + bytes, kPartAlignment) * kPartAlignment;
    return part;
  }
  ArrayLayout take_array(const ArrayFormat& format, int64_t rows, int64_t cols) {
    const Part codes = take(code_bytes(format, rows, cols));
    return {codes, take(2 * scale_count(format, rows, cols))};
  }
  int64_t end() const { return end_; }

 private:
  int64_t end_ = 0;
};

void validate_array(const ArrayFormat& format, const std::string& tensor, const char* what) {
  const int b = format.bits;
  if (b != 1 && b != 2 && b != 3 && b != 4 && b != 8 && b != 16) {
    fail(ErrorCode::kCorrupt, "tensor \"{}\": {} has {} bits, expected 1, 2, 3, 4, 8 or 16", tensor,
         what, b);
  }
  for (const int64_t extent : {format.scale_rows, format.scale_cols}) {
    if (extent >= 0 && extent <= kMaxExtent) continue;
    fail(ErrorCode::kCorrupt, "tensor \"{}\": {} has a scale block [{}, {}], expected 0 to {} each",
         tensor, what, format.scale_rows, format.scale_cols, kMaxExtent);
  }
}

}  // namespace

std::string_view codec_name(Codec codec) noexcept {
  switch (codec) {
    case Codec::kRaw:
      return "raw";
    case Codec::kDense:
      return "dense";
    case Codec::kLowRank:
      return "lowrank";
    case Codec::kVector:
      return "vector";
  }
  return "?";
}

int64_t MatrixFormat::rank() const noexcept {
  int64_t n = 0;
  for (const TierFormat& tier : tiers) n += tier.rank;
  return n;
}

int64_t code_bytes(const ArrayFormat& format, int64_t rows, int64_t cols) noexcept {
  if (format.bits == 3) return rows * (ceil_div(2 * cols, 8) + ceil_div(cols, 8));
  return rows * ceil_div(cols * format.bits, 8);
}

int64_t scale_count(const ArrayFormat& format, int64_t rows, int64_t cols) noexcept {
  if (format.bits == 16 || rows == 0 || cols == 0) return 0;
  return blocks(rows, format.scale_rows) * blocks(cols, format.scale_cols);
}

BlobLayout layout_of(const MatrixFormat& format) {
  BlobLayout layout;
  Cursor cursor;
  switch (format.codec) {
    case Codec::kRaw:
      layout.raw = cursor.take(element_count(format.shape) * dtype_bytes(format.raw_dtype));
      break;
    case Codec::kDense:
      layout.dense = cursor.take_array(format.dense, format.base_rows, format.n_in());
      break;
    case Codec::kLowRank:
      layout.s = cursor.take(2 * format.rank());
      for (const TierFormat& tier : format.tiers) {
        const ArrayLayout v = cursor.take_array(tier.v, tier.rank, format.n_in());
        layout.tiers.push_back({v, cursor.take_array(tier.u, tier.rank, format.base_rows)});
      }
      break;
    case Codec::kVector:
      layout.row_scale = cursor.take(2 * format.base_rows);
      layout.vector_codes =
          cursor.take(format.base_rows * ceil_div(format.n_in(), format.vector.dim));
      break;
  }
  if (format.row_gain) layout.row_gain = cursor.take(format.base_rows);
  if (format.col_gain) layout.col_gain = cursor.take(format.n_in());
  layout.added = cursor.take(format.added_rows() * format.n_in() * dtype_bytes(format.raw_dtype));
  layout.total_bytes = cursor.end();
  return layout;
}

void validate(const MatrixFormat& format, const std::string& tensor) {
  if (format.shape.empty() || format.shape.size() > 2) {
    fail(ErrorCode::kCorrupt, "tensor \"{}\": shape {} is neither a vector nor a matrix", tensor,
         to_string(format.shape));
  }
  for (const int64_t extent : format.shape) {
    if (extent <= 0 || extent > kMaxExtent) {
      fail(ErrorCode::kCorrupt, "tensor \"{}\": shape {}, expected extents of 1 to {}", tensor,
           to_string(format.shape), kMaxExtent);
    }
  }
  if (const int64_t n = element_count(format.shape); n > kMaxElements) {
    fail(ErrorCode::kCorrupt, "tensor \"{}\": shape {} of {} elements, expected at most {}", tensor,
         to_string(format.shape), n, kMaxElements);
  }
  if (!is_floating(format.raw_dtype)) {
    fail(ErrorCode::kCorrupt, "tensor \"{}\": raw values of type {}, expected a floating type",
         tensor, dtype_name(format.raw_dtype));
  }
  if ((format.row_gain && format.codec != Codec::kLowRank) ||
      (format.col_gain && format.codec != Codec::kLowRank && format.codec != Codec::kVector)) {
    fail(ErrorCode::kCorrupt,
         "tensor \"{}\": codec {} with gains of {}, expected them only of lowrank (rows, columns) "
         "and "
         "vector (columns)",
         tensor, codec_name(format.codec), format.row_gain ? "rows" : "columns");
  }
  if (format.codec == Codec::kRaw) return;
  if (format.shape.size() != 2 || format.base_rows <= 0 || format.base_rows > format.n_out()) {
    fail(ErrorCode::kCorrupt,
         "tensor \"{}\": {} coded rows of shape {}, expected a matrix and 1 to {} of its rows",
         tensor, format.base_rows, to_string(format.shape), format.n_out());
  }
  if (format.codec == Codec::kDense) return validate_array(format.dense, tensor, "its code");
  if (format.codec == Codec::kVector) {
    const VectorFormat& v = format.vector;
    if (!has_code_book(v.dim)) {
      fail(ErrorCode::kUnsupported, "tensor \"{}\": no code book of dimension {}", tensor, v.dim);
    }
    if (v.block < 1 || (v.block & (v.block - 1)) != 0 || format.n_in() % v.block != 0) {
      fail(ErrorCode::kCorrupt,
           "tensor \"{}\": a rotation in blocks of {}, expected a power of two that divides {}",
           tensor, v.block, format.n_in());
    }
    return;
  }
  if (format.tiers.size() > kMaxTiers) {
    fail(ErrorCode::kCorrupt, "tensor \"{}\": {} tiers, expected at most {}", tensor,
         format.tiers.size(), kMaxTiers);
  }
  const int64_t full_rank = std::min(format.base_rows, format.n_in());
  int64_t rank = 0;
  for (const TierFormat& tier : format.tiers) {
    validate_array(tier.v, tensor, "V");
    validate_array(tier.u, tensor, "U");
    if (tier.rank <= 0 || tier.rank > full_rank - rank) {
      fail(
          ErrorCode::kCorrupt,
          "tensor \"{}\": a tier of rank {} after {} components, expected at least 1 and in all no "
          "more than {}",
          tensor, tier.rank, rank, full_rank);
    }
    rank += tier.rank;
  }
}

}  // namespace deltacome
