// SPDX-License-Identifier: Apache-2.0
#include "quant/codes.h"

#include <cstring>

#include "core/check.h"
#include "quant/vector_codes.h"

namespace deltacome {
namespace {

/// A plane of `width` bits a code, taken from bit `shift` of it.
struct Plane {
  int width;
  int shift;
};

std::vector<Plane> planes_of(int bits) {
  if (bits == 3) return {{2, 0}, {1, 2}};
  return {{bits, 0}};
}

int64_t plane_row_bytes(int width, int64_t cols) {
  return (cols * width + 7) / 8;
}

void pack_row(std::span<const uint8_t> codes, const Plane& plane, std::byte* out) {
  const int per_byte = 8 / plane.width;
  const int mask = (1 << plane.width) - 1;
  for (size_t i = 0; i < codes.size(); ++i) {
    const int field = (codes[i] >> plane.shift) & mask;
    out[i / static_cast<size_t>(per_byte)] |= static_cast<std::byte>(
        field << (plane.width * static_cast<int>(i % static_cast<size_t>(per_byte))));
  }
}

void unpack_row(const std::byte* in, const Plane& plane, std::span<uint8_t> codes) {
  const int per_byte = 8 / plane.width;
  const int mask = (1 << plane.width) - 1;
  for (size_t i = 0; i < codes.size(); ++i) {
    const int byte = std::to_integer<int>(in[i / static_cast<size_t>(per_byte)]);
    const int field =
        (byte >> (plane.width * static_cast<int>(i % static_cast<size_t>(per_byte)))) & mask;
    codes[i] = static_cast<uint8_t>(codes[i] | (field << plane.shift));
  }
}

}  // namespace

void pack(const CodedArray& array, const ArrayLayout& layout, std::span<std::byte> blob) {
  std::byte* codes = blob.data() + layout.codes.offset;
  if (array.format.bits == 16) {
    DELTACOME_CHECK(static_cast<int64_t>(array.values.size()) == array.rows * array.cols);
    if (!array.values.empty()) std::memcpy(codes, array.values.data(), array.values.size() * 2);
    return;
  }
  DELTACOME_CHECK(static_cast<int64_t>(array.codes.size()) == array.rows * array.cols);
  DELTACOME_CHECK(static_cast<int64_t>(array.scales.size()) ==
                  scale_count(array.format, array.rows, array.cols));
  const auto cols = static_cast<size_t>(array.cols);
  std::memset(codes, 0, static_cast<size_t>(layout.codes.bytes));
  for (const Plane& plane : planes_of(array.format.bits)) {
    const int64_t row_bytes = plane_row_bytes(plane.width, array.cols);
    for (int64_t r = 0; r < array.rows; ++r, codes += row_bytes) {
      pack_row({array.codes.data() + static_cast<size_t>(r) * cols, cols}, plane, codes);
    }
  }
  if (!array.scales.empty()) {
    std::memcpy(blob.data() + layout.scales.offset, array.scales.data(), array.scales.size() * 2);
  }
}

CodedArray unpack(const ArrayFormat& format, int64_t rows, int64_t cols, const ArrayLayout& layout,
                  std::span<const std::byte> blob) {
  CodedArray array{
      .format = format, .rows = rows, .cols = cols, .codes = {}, .scales = {}, .values = {}};
  const std::byte* codes = blob.data() + layout.codes.offset;
  const auto n = static_cast<size_t>(rows * cols);
  if (format.bits == 16) {
    array.values.resize(n);
    if (n > 0) std::memcpy(array.values.data(), codes, n * 2);
    return array;
  }
  array.codes.assign(n, 0);
  for (const Plane& plane : planes_of(format.bits)) {
    const int64_t row_bytes = plane_row_bytes(plane.width, cols);
    for (int64_t r = 0; r < rows; ++r, codes += row_bytes) {
      unpack_row(codes, plane, {array.codes.data() + r * cols, static_cast<size_t>(cols)});
    }
  }
  array.scales.resize(static_cast<size_t>(layout.scales.bytes / 2));
  if (!array.scales.empty()) {
    std::memcpy(array.scales.data(), blob.data() + layout.scales.offset, array.scales.size() * 2);
  }
  return array;
}

std::vector<float> decode(const CodedArray& array) {
  const auto n = static_cast<size_t>(array.rows * array.cols);
  std::vector<float> out(n);
  if (array.format.bits == 16) {
    for (size_t i = 0; i < n; ++i) out[i] = f16_to_float(array.values[i]);
    return out;
  }
  const ArrayFormat& f = array.format;
  const int64_t per_row = f.scale_cols == 0 ? 1 : (array.cols + f.scale_cols - 1) / f.scale_cols;
  const float center = code_center(f.bits);
  for (int64_t r = 0; r < array.rows; ++r) {
    const int64_t block_row = f.scale_rows == 0 ? 0 : r / f.scale_rows;
    for (int64_t c = 0; c < array.cols; ++c) {
      const int64_t block = block_row * per_row + (f.scale_cols == 0 ? 0 : c / f.scale_cols);
      const auto i = static_cast<size_t>(r * array.cols + c);
      out[i] = f16_to_float(array.scales[static_cast<size_t>(block)]) *
               (static_cast<float>(array.codes[i]) - center);
    }
  }
  return out;
}

std::vector<float> decode_gains(std::span<const std::byte> blob, const Part& part) {
  std::vector<float> gains;
  for (const std::byte code :
       blob.subspan(static_cast<size_t>(part.offset), static_cast<size_t>(part.bytes)))
    gains.push_back(gain_of(std::to_integer<uint8_t>(code)));
  return gains;
}

DecodedDelta decode_delta(const MatrixFormat& format, std::span<const std::byte> blob) {
  const BlobLayout layout = layout_of(format);
  DELTACOME_CHECK(static_cast<int64_t>(blob.size()) == layout.total_bytes);
  DecodedDelta out;
  if (format.codec == Codec::kDense) {
    out.v = decode(unpack(format.dense, format.base_rows, format.n_in(), layout.dense, blob));
    return out;
  }
  const std::vector<float> row_gain = decode_gains(blob, layout.row_gain);
  const std::vector<float> col_gain = decode_gains(blob, layout.col_gain);
  const auto n_in = static_cast<size_t>(format.n_in());
  const auto scale_columns = [&] {
    for (size_t i = 0; !col_gain.empty() && i < out.v.size(); ++i) out.v[i] *= col_gain[i % n_in];
  };
  if (format.codec == Codec::kVector) {
    out.v = decode_rotated(format, blob);
    const std::vector<float> signs = rotation_signs(format.vector.seed, format.n_in());
    for (size_t first = 0; first < out.v.size(); first += n_in)
      unrotate(std::span(out.v).subspan(first, n_in), signs, format.vector.block);
    scale_columns();
    return out;
  }
  DELTACOME_CHECK(format.codec == Codec::kLowRank);
  const int64_t rank = format.rank();
  out.s.resize(static_cast<size_t>(rank));
  convert_to_float(blob.data() + layout.s.offset, DType::kBf16, out.s);
  out.u.resize(static_cast<size_t>(format.base_rows * rank));
  int64_t first = 0;
  for (size_t t = 0; t < format.tiers.size(); ++t) {
    const TierFormat& tier = format.tiers[t];
    const std::vector<float> v =
        decode(unpack(tier.v, tier.rank, format.n_in(), layout.tiers[t].v, blob));
    out.v.insert(out.v.end(), v.begin(), v.end());
    const std::vector<float> ut =
        decode(unpack(tier.u, tier.rank, format.base_rows, layout.tiers[t].u, blob));
    for (int64_t r = 0; r < tier.rank; ++r) {
      for (int64_t o = 0; o < format.base_rows; ++o) {
        out.u[static_cast<size_t>(o * rank + first + r)] =
            ut[static_cast<size_t>(r * format.base_rows + o)];
      }
    }
    first += tier.rank;
  }
  for (size_t i = 0; !row_gain.empty() && i < out.u.size(); ++i)
    out.u[i] *= row_gain[i / static_cast<size_t>(rank)];
  scale_columns();
  return out;
}

}  // namespace deltacome
