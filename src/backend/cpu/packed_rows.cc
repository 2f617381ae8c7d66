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

/// Bytes of the codes of a panel.
int64_t panel_bytes(const PackedShape& shape, int64_t rows) {
  const int64_t whole = shape.cols / kActivationGroup, rest = shape.cols % kActivationGroup;
  return unit_bytes(shape.bits) * (whole * group_units(shape.bits, rows, kActivationGroup) +
                                   group_units(shape.bits, rows, rest));
}

/// Calls visit(first column, byte of the unit) for every unit of a panel.
template <class Visit>
void for_units(const PackedShape& shape, int64_t rows, const Visit& visit) {
  const int64_t cols = unit_steps(shape.bits) * (kPanelBytes / rows);
  int64_t at = 0;
  for (int64_t g = 0; g < shape.cols; g += kActivationGroup) {
    for (int64_t c = g; c < std::min(g + kActivationGroup, shape.cols); c += cols) {
      visit(c, at);
      at += unit_bytes(shape.bits);
    }
  }
}

/// Four codes, a byte each, into and out of bytes [4 i, 4 i + 4) of step f of a unit.
void put(int bits, int64_t f, int64_t i, uint32_t codes, uint8_t* unit) {
  const auto merge = [&](uint8_t* vector, uint32_t value) {
    uint32_t word;
    std::memcpy(&word, vector + 4 * i, sizeof word);
    word |= value;
    std::memcpy(vector + 4 * i, &word, sizeof word);
  };
  if (bits != 3) return merge(unit, codes << (bits * f));
  merge(unit + f / 4 * kPanelBytes, (codes & 0x03030303) << (2 * (f % 4)));
  merge(unit + 2 * kPanelBytes, (codes >> 2 & 0x01010101) << f);
}
uint32_t get(int bits, int64_t f, int64_t i, const uint8_t* unit) {
  const auto word = [&](const uint8_t* vector) {
    uint32_t value;
    std::memcpy(&value, vector + 4 * i, sizeof value);
    return value;
  };
  if (bits != 3) return word(unit) >> (bits * f) & 0x01010101 * ((1u << bits) - 1);
  return (word(unit + f / 4 * kPanelBytes) >> (2 * (f % 4)) & 0x03030303) |
         (word(unit + 2 * kPanelBytes) >> f & 0x01010101) << 2;
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

}  // namespace

PackedShape packed_shape(int bits, int64_t cols, PackedScale scale) {
  PackedShape shape;
  shape.bits = bits;
  shape.center = code_center(bits);
  shape.cols = cols;
  shape.n_groups = ceil_div(cols, kActivationGroup);
  shape.scale = scale;
  shape.whole_bytes = panel_bytes(shape, kPanelRows);
  if (bits == 3) {  // a few columns take less room in 4 bits, of which a unit is smaller
    shape.bits = 4;
    const int64_t wider = panel_bytes(shape, kPanelRows);
    if (wider >= shape.whole_bytes) shape.bits = 3;
    shape.whole_bytes = std::min(wider, shape.whole_bytes);
  }
  shape.narrow_bytes = panel_bytes(shape, kNarrowRows);
  return shape;
}

PackedRows::PackedRows(PackedShape shape, int64_t n_rows)
    : shape_(shape),
      n_rows_(n_rows),
      bytes_(static_cast<size_t>(scale_offset(
          shape, n_rows, shape.scale == PackedScale::kGroup ? panel_padded_rows(n_rows) : 0))) {}

PackedRows::Panel PackedRows::panel_of(int64_t r) const noexcept {
  const int64_t rows = r < n_rows_ / kPanelRows * kPanelRows ? kPanelRows : kNarrowRows;
  const int64_t first = r / rows * rows;
  return {first, std::min(rows, n_rows_ - first)};
}

void PackedRows::set_panel(const Panel& panel, const uint8_t* codes, const uint16_t* scales) {
  const int64_t rows = panel.count < kPanelRows ? kNarrowRows : kPanelRows;
  const int64_t words = kPanelBytes / rows / 4;  // of a row in a step
  uint8_t* const to = bytes_.data() + panel_offset(shape_, n_rows_, panel.first);
  for_units(shape_, rows, [&](int64_t first, int64_t at) {
    for (int64_t i = 0; i < panel.count * words; ++i) {
      const uint8_t* row = codes + i / words * shape_.cols;
      for (int64_t f = 0; f < unit_steps(shape_.bits); ++f) {
        const int64_t col = first + 4 * (f * words + i % words);
        if (col >= shape_.cols) break;
        uint32_t four = 0;
        std::memcpy(&four, row + col, static_cast<size_t>(std::min<int64_t>(4, shape_.cols - col)));
        put(shape_.bits, f, i, four, to + at);
      }
    }
  });
  if (shape_.scale != PackedScale::kGroup) return;
  uint8_t* const stored = bytes_.data() + scale_offset(shape_, n_rows_, panel.first);
  for (int64_t g = 0; g < shape_.n_groups; ++g) {
    for (int64_t r = 0; r < panel.count; ++r)
      std::memcpy(stored + 2 * (g * rows + r), scales + r * shape_.n_groups + g, 2);
  }
}

PackedRows PackedRows::of(const ArrayFormat& format, int64_t rows, int64_t cols,
                          const ArrayLayout& layout, std::span<const std::byte> blob) {
  DELTACOME_CHECK(can_pack(format));
  const PackedScale kind = has_one_scale(format)    ? PackedScale::kArray
                           : format.scale_cols == 0 ? PackedScale::kRow
                                                    : PackedScale::kGroup;
  PackedRows out(packed_shape(format.bits, cols, kind), rows);
  const std::byte* scales = blob.data() + layout.scales.offset;
  const CodeReader reader(format, rows, cols, blob.data() + layout.codes.offset);
  std::vector<uint8_t> codes(static_cast<size_t>(kPanelRows * cols));
  const int64_t n_groups = out.shape_.n_groups;
  std::vector<uint16_t> of_panel(static_cast<size_t>(kPanelRows * n_groups));
  for (int64_t r = 0; r < rows;) {
    const Panel panel = out.panel_of(r);
    for (int64_t i = 0; i < panel.count; ++i) reader.read(r + i, 0, cols, codes.data() + i * cols);
    if (kind == PackedScale::kGroup)
      std::memcpy(of_panel.data(), scales + 2 * r * n_groups,
                  static_cast<size_t>(2 * panel.count * n_groups));
    out.set_panel(panel, codes.data(), of_panel.data());
    r += panel.count;
  }
  for (int64_t r = 0; kind == PackedScale::kRow && r < rows; ++r)
    out.row_scale.push_back(f16_at(scales, r));
  if (kind == PackedScale::kArray && rows > 0) out.scale = f16_at(scales, 0);
  return out;
}

PackedRows PackedRows::transpose_of(const ArrayFormat& format, int64_t rank, int64_t n_out,
                                    const ArrayLayout& layout, std::span<const std::byte> blob) {
  DELTACOME_CHECK(can_pack_transposed(format));
  const bool by_output = !has_one_scale(format) && format.scale_cols == 1;
  PackedRows out(
      packed_shape(format.bits, rank, by_output ? PackedScale::kGroup : PackedScale::kArray),
      n_out);
  const std::byte* scales = blob.data() + layout.scales.offset;
  const CodeReader reader(format, rank, n_out, blob.data() + layout.codes.offset);
  constexpr int64_t kOutputs = 64;  // transposed at a time, whole panels
  const int64_t n_groups = out.shape_.n_groups;
  std::vector<uint8_t> by_component(static_cast<size_t>(rank * kOutputs));
  std::vector<uint8_t> codes(static_cast<size_t>(kPanelRows * rank));
  std::vector<uint16_t> of_panel(static_cast<size_t>(kPanelRows * n_groups));
  for (int64_t first = 0; first < n_out; first += kOutputs) {
    const int64_t n = std::min(kOutputs, n_out - first);
    for (int64_t k = 0; k < rank; ++k) reader.read(k, first, n, by_component.data() + k * kOutputs);
    for (int64_t o = first; o < first + n;) {
      const Panel panel = out.panel_of(o);
      for (int64_t k = 0; k < rank; ++k) {
        const uint8_t* from = by_component.data() + k * kOutputs + (o - first);
        for (int64_t i = 0; i < panel.count; ++i)
          codes[static_cast<size_t>(i * rank + k)] = from[i];
      }
      for (int64_t i = 0; by_output && i < panel.count; ++i) {
        for (int64_t g = 0; g < n_groups; ++g)
          std::memcpy(&of_panel[static_cast<size_t>(i * n_groups + g)],
                      scales + 2 * (g * n_out + o + i), 2);
      }
      out.set_panel(panel, codes.data(), of_panel.data());
      o += panel.count;
    }
  }
  if (by_output) return out;
  if (has_one_scale(format)) {
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
  return static_cast<int64_t>(bytes_.size() +
                              sizeof(float) * (row_scale.size() + column_scale.size()));
}

void PackedRows::decode_row(int64_t r, float* out) const {
  const Panel panel = panel_of(r);
  const int64_t rows = panel.count < kPanelRows ? kNarrowRows : kPanelRows;
  const int64_t words = kPanelBytes / rows / 4, word = (r - panel.first) * words;
  const uint8_t* from = codes() + panel_offset(shape_, n_rows_, panel.first);
  const auto* scales = reinterpret_cast<const std::byte*>(codes()) +
                       scale_offset(shape_, n_rows_, panel.first) + 2 * (r - panel.first);
  const float whole = shape_.scale == PackedScale::kRow ? row_scale[static_cast<size_t>(r)] : scale;
  for_units(shape_, rows, [&](int64_t first, int64_t at) {
    const float by = shape_.scale == PackedScale::kGroup
                         ? f16_at(scales, first / kActivationGroup * rows)
                         : whole;
    for (int64_t i = 0; i < unit_steps(shape_.bits) * words; ++i) {
      const int64_t col = first + 4 * i;
      const uint32_t four = get(shape_.bits, i / words, word + i % words, from + at);
      for (int64_t k = 0; k < std::min<int64_t>(4, shape_.cols - col); ++k)
        out[col + k] = by * (static_cast<float>(four >> (8 * k) & 0xff) - shape_.center);
    }
  });
}

}  // namespace deltacome::cpu
