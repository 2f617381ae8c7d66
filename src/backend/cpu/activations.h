// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/cpu/aligned_vector.h"

namespace deltacome::cpu {

struct PackedKernels;

inline constexpr int64_t kActivationGroup = 128;  // inputs that share a scale
inline constexpr float kActivationLevels = 127;

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

/// The input of vector codes of one dimension, in the order that entry_dot() of the same kernels
/// wants; 64 codes share a scale.
struct EntryQuantizeArgs {
  const float* x = nullptr;  // [n]
  int64_t n = 0;
  int dim = 0;
  int8_t* bytes = nullptr;
  float* scale = nullptr;
  float* sum = nullptr;
};

/// Owns quantized rows of one length.
class QuantizedRows {
 public:
  QuantizedRows() = default;
  /// `dim` 0: rows for packed codes; otherwise for vector codes of that dimension.
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
