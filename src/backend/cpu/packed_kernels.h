// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backend/cpu/activations.h"

namespace deltacome::cpu {

/// What the codes of a packed row are multiplied with.
enum class PackedScale : uint8_t {
  kArray,  // `scale` of all
  kRow,    // row_scale of its row
  kGroup,  // fp16 of each group of kActivationGroup columns, behind the row's codes
};

inline constexpr int64_t kPanelRows = 16;  // of a whole panel
inline constexpr int64_t kNarrowRows =
    4;  // of those behind the last whole one, as many as it takes
inline constexpr int64_t kPanelBytes = 64;

/// How codes are stored: in panels of 16 rows, the rest in panels of 4. A panel goes through its
/// columns group by group of 128, the last cut. A step is 64 codes of a panel, byte i of it row
/// i / (64 / rows), columns one after another: sums of products by fours are sums of a row, and 16
/// rows have theirs side by side. A unit is 64 bytes of some steps: step f in bits [b f, b f + b)
/// of each byte. 3 bits are two units of 2 bits and one of 1 bit, of eight steps. A cut group has
/// whole units, of codes 0 behind the last column. Scales of groups are behind the codes of all
/// panels, for each panel fp16 [n_groups, rows].
struct PackedShape {
  int bits = 0;      // of a stored code: 1, 2, 3, 4 or 8
  float center = 0;  // of the codes, which may have fewer bits
  int64_t cols = 0;
  int64_t n_groups = 0;                       // of 128 columns, the last may be cut
  int64_t whole_bytes = 0, narrow_bytes = 0;  // codes of a panel of 16 and of 4 rows
  PackedScale scale = PackedScale::kArray;
};

/// Steps and bytes of a unit. These are static: units of several instruction sets call them, and
/// each needs a copy of its own (kernels_impl.h).
static constexpr int64_t unit_steps(int bits) {
  return bits == 3 ? 8 : 8 / bits;
}
static constexpr int64_t unit_bytes(int bits) {
  return bits == 3 ? 3 * kPanelBytes : kPanelBytes;
}
/// Units of a group of n columns in panels of `rows` rows.
static constexpr int64_t group_units(int bits, int64_t rows, int64_t n) {
  const int64_t cols = unit_steps(bits) * (kPanelBytes / rows);
  return (n + cols - 1) / cols;
}
/// Rows to whole panels.
static constexpr int64_t panel_padded_rows(int64_t n_rows) {
  return (n_rows + kNarrowRows - 1) / kNarrowRows * kNarrowRows;
}
/// Where the codes of the panel begin whose first row is `row` of `n_rows`, and where its scales
/// do.
static constexpr int64_t panel_offset(const PackedShape& shape, int64_t n_rows, int64_t row) {
  const int64_t whole = n_rows / kPanelRows;
  if (row / kPanelRows < whole) return row / kPanelRows * shape.whole_bytes;
  return whole * shape.whole_bytes + (row - whole * kPanelRows) / kNarrowRows * shape.narrow_bytes;
}
static constexpr int64_t scale_offset(const PackedShape& shape, int64_t n_rows, int64_t row) {
  return panel_offset(shape, n_rows, panel_padded_rows(n_rows)) + 2 * row * shape.n_groups;
}

template <int kBits>
struct PackedBits {
  static constexpr int value = kBits;
};
/// Calls visit(PackedBits<bits>()). Visitors are lambdas, so that each file has its own instance.
template <class Visit>
void visit_packed_bits(int bits, const Visit& visit) {
  switch (bits) {
    case 1:
      return visit(PackedBits<1>());
    case 2:
      return visit(PackedBits<2>());
    case 3:
      return visit(PackedBits<3>());
    case 4:
      return visit(PackedBits<4>());
    default:
      return visit(PackedBits<8>());
  }
}

/// y[t][y_first + i] = or += row_scale[i] * scale * sum over k of (code[first + i, k] - center) *
/// x[t][k], with the scales of its groups in the sum; row_scale null = 1. The order of the sum
/// depends on the shape alone.
struct PackedDotArgs {
  const PackedShape* shape = nullptr;
  const uint8_t* codes = nullptr;  // of all rows
  int64_t n_rows = 0;              // of all
  int64_t first = 0;               // of a panel
  int64_t count = 0;               // whole panels, or all that are left
  float scale = 1;
  const float* row_scale = nullptr;        // [count] or null
  const QuantizedRow* const* x = nullptr;  // [n_tokens]
  float* const* y = nullptr;               // [n_tokens]
  int64_t n_tokens = 0;
  int64_t y_first = 0;
  bool add = false;
};

// Vector codes are stored in pieces of 16 codes of all rows; in a piece rows go in blocks of 64,
// the last of what is left to a multiple of 16; in a block code by code, those of its rows side by
// side.
inline constexpr int64_t kEntryRows = 64;
inline constexpr int64_t kEntryPiece = 16;
static constexpr int64_t entry_padded_rows(int64_t n_rows) {
  return (n_rows + 15) / 16 * 16;
}
static constexpr int64_t entry_pieces(int64_t n_codes) {
  return (n_codes + kEntryPiece - 1) / kEntryPiece;
}
/// Rows of the block that begins with row `row`, padding included.
static constexpr int64_t entry_block_rows(int64_t n_rows, int64_t row) {
  const int64_t left = entry_padded_rows(n_rows) - row;
  return left < kEntryRows ? left : kEntryRows;
}
/// Where the codes of a piece for the block that begins with row `row` are.
static constexpr int64_t entry_offset(int64_t n_rows, int64_t piece, int64_t row) {
  return (piece * entry_padded_rows(n_rows) + row) * kEntryPiece;
}

/// y[t][y_first + i] += row_scale[i] / 32 * sum over k of entry[code[first + i, k / dim]][k % dim]
/// * x[t][k], where x was quantized for `dim` in a set of n_tokens rows.
struct EntryDotArgs {
  const EntryBook* book = nullptr;
  const uint8_t* codes = nullptr;  // of all rows, in pieces
  int64_t n_codes = 0;             // of a row
  int64_t n_rows = 0;              // of all
  int64_t first = 0;               // of a block
  int64_t count = 0;
  const float* row_scale = nullptr;        // [count]
  const QuantizedRow* const* x = nullptr;  // [n_tokens]
  float* const* y = nullptr;               // [n_tokens]
  int64_t n_tokens = 0;
  int64_t y_first = 0;
  float* scratch = nullptr;  // entry_scratch() floats
};
/// Sums of a block, and its codes of a group as elements.
inline int64_t entry_scratch(int dim, int64_t n_tokens) {
  return kEntryRows * (n_tokens + kEntryGroup * entry_bytes(dim) / 4);
}

/// y[t][y_first + o] = sum over k of w[o, k] * x[t][k], both bf16, in f32.
struct Bf16DotArgs {
  const uint16_t* const* x = nullptr;  // [n_tokens] rows of k
  int64_t n_tokens = 0;
  const void* w = nullptr;  // [n_out, k], need not be aligned
  int64_t n_out = 0;
  int64_t k = 0;
  float* const* y = nullptr;
  int64_t y_first = 0;
};

/// Kernels that multiply codes as they are stored, in integers. What is computed for one token and
/// row never depends on the others of a call.
struct PackedKernels {
  void (*quantize)(const QuantizeArgs&);
  void (*quantize_entries)(const EntryQuantizeArgs&);
  void (*dot)(const PackedDotArgs&);
  void (*entry_dot)(const EntryDotArgs&);
};

/// Kernels of products of bf16.
struct Bf16Kernels {
  /// out = x rounded to nearest even.
  void (*round)(const float* x, int64_t n, uint16_t* out);
  void (*dot)(const Bf16DotArgs&);
};

}  // namespace deltacome::cpu
