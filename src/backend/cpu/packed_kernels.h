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

/// How a row of codes is stored: whole blocks, then whole groups of 128 columns that do not fill a
/// block, then the rest. In a run of n columns of b bits, S = ceil(n * b / 8) bytes (to a multiple
/// of 4), byte j holds columns j, j + S, j + 2 S, ... from its lowest bits on: a mask and a shift
/// of a whole vector give neighbouring columns. 3 bits are a run of 2 bits and a run of 1 bit
/// behind it.
struct PackedShape {
  int bits = 0;  // 1, 2, 3, 4 or 8
  int64_t cols = 0;
  int64_t n_blocks = 0;
  int64_t n_groups = 0;  // of 128 columns, the last may be cut
  int64_t code_bytes = 0;
  int64_t row_bytes = 0;  // codes and scales
  PackedScale scale = PackedScale::kArray;
};

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

inline constexpr int64_t kPackedSlack = 64;  // bytes behind the last row that kernels may read

/// Columns of a block: those of one vector of 64 bytes, or the least that is whole groups. Static:
/// units of several instruction sets call it, and each needs a copy of its own (kernels_impl.h).
static constexpr int64_t packed_block_cols(int bits) {
  return bits == 1 || bits == 3 ? 512 : bits == 2 ? 256 : 128;
}
/// Bytes of a run of n columns. Static as well.
static constexpr int64_t packed_run_bytes(int bits, int64_t n) {
  if (bits == 3) return packed_run_bytes(2, n) + packed_run_bytes(1, n);
  const int64_t per_byte = 8 / bits;
  return ((n + per_byte - 1) / per_byte + 3) / 4 * 4;
}

/// y[t][y_first + i] = or += row_scale[i] * scale * sum over k of (code[i, k] - center) * x[t][k],
/// with the scales of its groups in the sum; row_scale null = 1. The order of the sum depends on
/// the shape alone.
struct PackedDotArgs {
  const PackedShape* shape = nullptr;
  const uint8_t* rows = nullptr;  // first of n_rows
  int64_t n_rows = 0;
  float scale = 1;
  const float* row_scale = nullptr;        // [n_rows] or null
  const QuantizedRow* const* x = nullptr;  // [n_tokens]
  float* const* y = nullptr;               // [n_tokens]
  int64_t n_tokens = 0;
  int64_t y_first = 0;
  bool add = false;
  float* scratch = nullptr;  // packed_scratch() floats
};
inline constexpr int kPackedTileRows = 2;
inline constexpr int kPackedLaneRows = 16;  // lanes of a vector of results
inline constexpr int kPackedTileTokens = 4;
inline constexpr int kPackedManyTokens = 8;  // from so many on codes become bytes once for all
inline constexpr int kPackedManyRows = 64;   // that are bytes at a time
/// Floats of the scales of a row, to whole vectors of 16. Static as packed_run_bytes().
static constexpr int64_t packed_scale_stride(const PackedShape& shape) {
  return (shape.n_groups + 15) / 16 * 16;
}
/// Scales of a tile, and unpacked codes.
inline int64_t packed_scratch(const PackedShape& shape, int64_t n_tokens) {
  const bool many = n_tokens >= kPackedManyTokens;
  return (many ? kPackedLaneRows : kPackedTileRows) * kPackedTileTokens *
             packed_scale_stride(shape) +
         (many ? kPackedManyRows : 1) * spread_stride(shape.n_groups * kActivationGroup) / 4;
}

inline constexpr int kEntryBlock = 64;  // vector codes that are looked up at a time

/// y[t][y_first + i] += row_scale[i] / 32 * sum over k of entry[code[i, k / dim]][k % dim] *
/// x[t][k], where x was quantized for `dim`.
struct EntryDotArgs {
  int dim = 0;
  const uint8_t* codes = nullptr;  // [n_rows, n_codes]
  int64_t n_codes = 0;
  int64_t n_rows = 0;
  const uint8_t* planes = nullptr;         // [dim, 256] element p of every entry, plus 128
  const uint8_t* entries = nullptr;        // the same by entry, [256, dim]
  const float* row_scale = nullptr;        // [n_rows]
  const QuantizedRow* const* x = nullptr;  // [n_tokens]
  float* const* y = nullptr;               // [n_tokens]
  int64_t n_tokens = 0;
  int64_t y_first = 0;
  float* scratch = nullptr;  // entry_scratch() floats
};
/// Elements of codes that were looked up, and sums of a tile.
inline int64_t entry_scratch(int64_t n_codes, int dim, int64_t n_tokens) {
  if (n_tokens < kPackedManyTokens) return 0;
  const int64_t n_blocks = (n_codes + kEntryBlock - 1) / kEntryBlock;
  return kPackedManyRows *
         (spread_stride(n_blocks * kEntryBlock * dim) / 4 + kPackedTileTokens * 16);
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
