// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/packed_rows.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/runtime.h"
#include "core/check.h"
#include "core/dtype.h"
#include "quant/codes.h"

namespace deltacome::cpu {
namespace {

float f16_at(const std::byte* scales, int64_t i) {
  uint16_t bits;
  std::memcpy(&bits, scales + 2 * i, sizeof bits);
  return f16_to_float(bits);
}

/// Calls visit(bits, shift, first column, columns, offset) for every run of one width of a row;
/// codes of a run are bits [shift, shift + bits) of a column's code.
template <class Visit>
void for_runs(const PackedShape& shape, const Visit& visit) {
  const int64_t block = packed_block_cols(shape.bits);
  int64_t offset = 0;
  const auto run = [&](int64_t first, int64_t n) {
    if (shape.bits != 3) {
      visit(shape.bits, 0, first, n, offset);
    } else if (n == block) {  // a vector of 64 bytes has 256 codes of 2 bits
      visit(2, 0, first, n / 2, offset);
      visit(2, 0, first + n / 2, n / 2, offset + 64);
      visit(1, 2, first, n, offset + 128);
    } else {
      visit(2, 0, first, n, offset);
      visit(1, 2, first, n, offset + packed_run_bytes(2, n));
    }
    offset += packed_run_bytes(shape.bits, n);
  };
  for (int64_t b = 0; b < shape.n_blocks; ++b) run(b * block, block);
  for (int64_t first = shape.n_blocks * block; first < shape.cols; first += kActivationGroup)
    run(first, std::min(kActivationGroup, shape.cols - first));
}

/// Unpacks rows of bit planes as the blob holds them.
class CodeReader {
 public:
  CodeReader(const ArrayFormat& format, int64_t rows, int64_t cols, const std::byte* codes)
      : bits_(format.bits),
        low_(reinterpret_cast<const uint8_t*>(codes)),
        low_bytes_(ceil_div(cols * (format.bits == 3 ? 2 : format.bits), 8)),
        high_(low_ + rows * low_bytes_),
        high_bytes_(ceil_div(cols, 8)) {}

  /// Codes of columns [first, first + n) of a row; `first` is a multiple of 8.
  void read(int64_t row, int64_t first, int64_t n, uint8_t* out) const {
    const int width = bits_ == 3 ? 2 : bits_;
    const uint8_t* low = low_ + row * low_bytes_ + first * width / 8;
    const int per_byte = 8 / width, mask = (1 << width) - 1;
    for (int64_t i = 0; i < n; ++i)
      out[i] = static_cast<uint8_t>((low[i / per_byte] >> (width * (i % per_byte))) & mask);
    if (bits_ != 3) return;
    const uint8_t* high = high_ + row * high_bytes_ + first / 8;
    for (int64_t i = 0; i < n; ++i)
      out[i] = static_cast<uint8_t>(out[i] | ((high[i / 8] >> (i % 8)) & 1) << 2);
  }

 private:
  int bits_;
  const uint8_t* low_;
  int64_t low_bytes_;
  const uint8_t* high_;
  int64_t high_bytes_;
};

bool one_scale(const ArrayFormat& f) {
  return f.scale_rows == 0 && f.scale_cols == 0;
}

}  // namespace

PackedShape packed_shape(int bits, int64_t cols, PackedScale scale) {
  PackedShape shape{.bits = bits,
                    .cols = cols,
                    .n_blocks = cols / packed_block_cols(bits),
                    .n_groups = ceil_div(cols, kActivationGroup),
                    .scale = scale};
  for_runs(shape, [&](int run_bits, int, int64_t, int64_t n, int64_t offset) {
    shape.code_bytes = std::max(shape.code_bytes, offset + packed_run_bytes(run_bits, n));
  });
  shape.row_bytes = shape.code_bytes + (scale == PackedScale::kGroup ? 2 * shape.n_groups : 0);
  return shape;
}

void pack_row(const PackedShape& shape, const uint8_t* codes, uint8_t* row) {
  std::fill_n(row, shape.code_bytes, uint8_t{0});
  for_runs(shape, [&](int bits, int shift, int64_t first, int64_t n, int64_t offset) {
    const int64_t stride = packed_run_bytes(bits, n);
    const auto mask = static_cast<uint8_t>((1 << bits) - 1);
    for (int field = 0; field < 8 / bits; ++field) {
      const uint8_t* in = codes + first + field * stride;
      uint8_t* out = row + offset;
      const int64_t count = std::min(stride, n - field * stride);
      for (int64_t j = 0; j < count; ++j)
        out[j] = static_cast<uint8_t>(out[j] | ((in[j] >> shift) & mask) << (bits * field));
    }
  });
}

void unpack_row(const PackedShape& shape, const uint8_t* row, uint8_t* codes) {
  std::fill_n(codes, shape.cols, uint8_t{0});
  for_runs(shape, [&](int bits, int shift, int64_t first, int64_t n, int64_t offset) {
    const int64_t stride = packed_run_bytes(bits, n);
    const auto mask = static_cast<uint8_t>((1 << bits) - 1);
    for (int field = 0; field < 8 / bits; ++field) {
      uint8_t* out = codes + first + field * stride;
      const uint8_t* in = row + offset;
      const int64_t count = std::min(stride, n - field * stride);
      for (int64_t j = 0; j < count; ++j)
        out[j] = static_cast<uint8_t>(out[j] | ((in[j] >> (bits * field)) & mask) << shift);
    }
  });
}

PackedRows::PackedRows(PackedShape shape, int64_t n_rows)
    : shape_(shape),
      n_rows_(n_rows),
      bytes_(static_cast<size_t>(n_rows * shape.row_bytes + kPackedSlack)) {}

bool PackedRows::can_hold(const ArrayFormat& f) {
  const bool by_row = f.scale_rows == 1 && (f.scale_cols == 0 || f.scale_cols == kActivationGroup);
  return f.bits < 16 && (one_scale(f) || by_row);
}

bool PackedRows::can_hold_transposed(const ArrayFormat& f) {
  const bool by_output = f.scale_rows == kActivationGroup && f.scale_cols == 1;
  const bool by_component = f.scale_rows == 1 && f.scale_cols % kActivationGroup == 0;
  return f.bits < 16 && (one_scale(f) || by_output || by_component);
}

PackedRows PackedRows::of(const ArrayFormat& format, int64_t rows, int64_t cols,
                          const ArrayLayout& layout, std::span<const std::byte> blob) {
  DELTACOME_CHECK(can_hold(format));
  const PackedScale kind = one_scale(format)        ? PackedScale::kArray
                           : format.scale_cols == 0 ? PackedScale::kRow
                                                    : PackedScale::kGroup;
  PackedRows out(packed_shape(format.bits, cols, kind), rows);
  if (kind == PackedScale::kRow) out.row_scale.reserve(static_cast<size_t>(rows));
  const std::byte* scales = blob.data() + layout.scales.offset;
  const CodeReader reader(format, rows, cols, blob.data() + layout.codes.offset);
  std::vector<uint8_t> codes(static_cast<size_t>(cols));
  const int64_t n_groups = out.shape_.n_groups;
  for (int64_t r = 0; r < rows; ++r) {
    reader.read(r, 0, cols, codes.data());
    pack_row(out.shape_, codes.data(), out.row(r));
    if (kind == PackedScale::kRow) out.row_scale.push_back(f16_at(scales, r));
    if (kind == PackedScale::kGroup)
      std::memcpy(out.row(r) + out.shape_.code_bytes, scales + 2 * r * n_groups,
                  static_cast<size_t>(2 * n_groups));
  }
  if (kind == PackedScale::kArray && rows > 0) out.scale = f16_at(scales, 0);
  return out;
}

PackedRows PackedRows::transpose_of(const ArrayFormat& format, int64_t rank, int64_t n_out,
                                    const ArrayLayout& layout, std::span<const std::byte> blob) {
  DELTACOME_CHECK(can_hold_transposed(format));
  const bool by_output = !one_scale(format) && format.scale_cols == 1;
  PackedRows out(
      packed_shape(format.bits, rank, by_output ? PackedScale::kGroup : PackedScale::kArray),
      n_out);
  const std::byte* scales = blob.data() + layout.scales.offset;
  const CodeReader reader(format, rank, n_out, blob.data() + layout.codes.offset);
  constexpr int64_t kOutputs = 64;  // transposed at a time
  std::vector<uint8_t> by_component(static_cast<size_t>(rank * kOutputs));
  std::vector<uint8_t> codes(static_cast<size_t>(rank));
  for (int64_t first = 0; first < n_out; first += kOutputs) {
    const int64_t n = std::min(kOutputs, n_out - first);
    for (int64_t k = 0; k < rank; ++k) reader.read(k, first, n, by_component.data() + k * kOutputs);
    for (int64_t o = 0; o < n; ++o) {
      for (int64_t k = 0; k < rank; ++k)
        codes[static_cast<size_t>(k)] = by_component[static_cast<size_t>(k * kOutputs + o)];
      uint8_t* row = out.row(first + o);
      pack_row(out.shape_, codes.data(), row);
      for (int64_t g = 0; by_output && g < out.shape_.n_groups; ++g)
        std::memcpy(row + out.shape_.code_bytes + 2 * g, scales + 2 * (g * n_out + first + o), 2);
    }
  }
  if (by_output) return out;
  if (one_scale(format)) {
    out.scale = f16_at(scales, 0);
    return out;
  }
  out.column_rows = format.scale_cols == 0 ? n_out : format.scale_cols;
  const int64_t n_blocks = ceil_div(n_out, out.column_rows);
  out.column_scale.reserve(static_cast<size_t>(n_blocks * rank));
  for (int64_t i = 0; i < n_blocks; ++i) {
    for (int64_t k = 0; k < rank; ++k) out.column_scale.push_back(f16_at(scales, k * n_blocks + i));
  }
  return out;
}

int64_t PackedRows::bytes() const noexcept {
  return n_rows_ * shape_.row_bytes +
         static_cast<int64_t>(sizeof(float) * (row_scale.size() + column_scale.size()));
}

void PackedRows::decode_row(int64_t r, float* out) const {
  thread_local std::vector<uint8_t> codes;
  codes.resize(static_cast<size_t>(shape_.cols));
  unpack_row(shape_, row(r), codes.data());
  const auto* scales = reinterpret_cast<const std::byte*>(row(r) + shape_.code_bytes);
  const float center = code_center(shape_.bits);
  const float whole = shape_.scale == PackedScale::kRow ? row_scale[static_cast<size_t>(r)] : scale;
  for (int64_t i = 0; i < shape_.cols; ++i) {
    const float by =
        shape_.scale == PackedScale::kGroup ? f16_at(scales, i / kActivationGroup) : whole;
    out[i] = by * (static_cast<float>(codes[static_cast<size_t>(i)]) - center);
  }
}

}  // namespace deltacome::cpu
