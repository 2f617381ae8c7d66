// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/cpu/aligned_vector.h"
#include "quant/coded_products.h"

namespace deltacome::cpu {

struct PackedKernels;

/// Distance of rows that are read side by side: `bytes`, to an odd multiple of 512, so that lines
/// of at least eight rows fall into different sets of a first-level cache (4 KiB a way). Static:
/// several instruction sets call it.
static constexpr int64_t spread_stride(int64_t bytes) {
  return ((bytes + 511) / 512 | 1) * 512;
}

/// A row of activations as bytes, so that sums of products with codes are exact in 32 bits, and
/// those of a group in a float: x[i] = scale[i / group] * bytes[i], within half a scale of the
/// input. Rows are padded to whole groups. Of the bytes behind n, those that a kernel reads are
/// zeros that its own quantize() wrote or are multiplied with zeros; the padding of `scale` and
/// `sum` is zeros.
struct QuantizedRow {
  const int8_t* bytes = nullptr;  // [padded n]
  const float* scale = nullptr;   // [groups], to a multiple of 16
  const float* sum = nullptr;     // [groups] sums of the group's values
  float total = 0;                // of all values, in the order of groups
};

/// Where quantize() writes; the members as in QuantizedRow.
struct QuantizeArgs {
  const float* x = nullptr;      // [n]
  const float* gains = nullptr;  // [n] or null: x[i] * gains[i] is quantized
  int64_t n = 0;
  int8_t* bytes = nullptr;
  float* scale = nullptr;
  float* sum = nullptr;
};

inline constexpr int64_t kEntryBookSize = 256;
/// So few rows of one input are kept as sums: of each code the products with all 256 entries. Then
/// a code is one look-up, whatever its dimension.
inline constexpr int64_t kEntrySumTokens = 3;

/// Bytes of the inputs of a code: its elements to a multiple of 4, or the sums, low bytes and then
/// high bytes plus 128.
static constexpr int64_t entry_bytes(int dim) {
  return (dim + 3) / 4 * 4;
}
inline constexpr int64_t kEntrySumBytes = 2 * kEntryBookSize;

/// A code book for products of integers; elements plus 128.
struct EntryBook {
  int dim = 0;
  float levels = 0;                  // entry_levels(dim)
  const uint8_t* entries = nullptr;  // [256, dim]
  const uint8_t* planes = nullptr;   // [entry_bytes(dim), 256]: an element of every entry
  /// [entry_bytes(dim) / 4, 256, 4], where entry 64 a + 16 b + 4 c + d is at 64 a + 16 c + 4 b + d:
  /// packing sums to bytes puts them in order.
  const uint8_t* quads = nullptr;
};

/// The input of vector codes of one dimension; scales of groups of 64 codes. `sum` are those of a
/// group's integers here. `bytes` has room for whole groups of codes: elements, by code, or sums,
/// if they are asked for and the kernels have them.
struct EntryQuantizeArgs {
  const float* x = nullptr;  // [n]
  int64_t n = 0;
  const EntryBook* book = nullptr;
  bool sums = false;
  int8_t* bytes = nullptr;
  float* scale = nullptr;
  float* sum = nullptr;
};

/// Owns quantized rows of one length.
class QuantizedRows {
 public:
  QuantizedRows() = default;
  /// `dim` 0: rows for packed codes; otherwise for vector codes of that dimension, all the rows of
  /// a product.
  QuantizedRows(int64_t n_rows, int64_t n, int dim = 0) { reset(n_rows, n, dim); }
  /// Rows of another number and length, none of them set, in the same memory if it suffices.
  void reset(int64_t n_rows, int64_t n, int dim = 0);

  int64_t n_rows() const noexcept { return static_cast<int64_t>(rows_.size()); }
  /// Writes row r; rows may be written by different threads. gains null = 1 (packed codes only).
  void set(const PackedKernels& kernels, int64_t r, const float* x, const float* gains);
  const QuantizedRow& row(int64_t r) const { return rows_[static_cast<size_t>(r)]; }

 private:
  int64_t n_ = 0;
  int dim_ = 0;
  int64_t stride_ = 0;  // of bytes
  int64_t groups_ = 0;  // padded to a multiple of 16
  AlignedVector<int8_t> bytes_;
  AlignedVector<float> floats_;
  std::vector<QuantizedRow> rows_;
};

}  // namespace deltacome::cpu
