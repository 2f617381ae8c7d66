// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"

namespace deltacome {

/// How one array [rows, cols] of numbers is stored. With bits < 16 the value of a code is
///   w = scale * (code - (2^bits - 1) / 2)          ("mid-rise": symmetric, no zero, no zero point)
/// and blocks of scale_rows x scale_cols codes share one fp16 scale (0 = the whole extent). With
/// bits = 16 the elements are fp16 themselves and there are no scales.
/// Codes are bit planes of a row, LSB first, each row padded to a byte: one plane of 1, 2, 4 or 8
/// bits, or for 3 bits a 2-bit plane of all rows, then the 1-bit plane of the high bits.
struct ArrayFormat {
  int bits = 16;           // 1, 2, 3, 4, 8 or 16
  int64_t scale_rows = 1;  // rows that share a scale; 0 = all
  int64_t scale_cols = 0;  // columns that share a scale; 0 = all
  bool operator==(const ArrayFormat&) const = default;
};

/// Tiers of a matrix. Each costs every decoder rows of scales and padding beside its codes, however
/// small its rank. No planner makes more: allocate() has 8 pairs of widths and a tier for each, the
/// published mixes have at most 4, an adapter has 1.
inline constexpr size_t kMaxTiers = 8;

/// The components of a matrix that share a pair of widths.
struct TierFormat {
  int64_t rank = 0;
  ArrayFormat v;  // of V [rank, n_in]: a row is a component
  ArrayFormat u;  // of U^T [rank, n_out]: stored by component, so that it needs no padding
  bool operator==(const TierFormat&) const = default;
};

/// How the rows of a delta are stored as entries of a global code book after a rotation of the
/// input. `dim` neighbouring weights of a row share one byte, the index of an entry of `dim`
/// values:
///   row o of the delta = row_scale[o] * (entries of its codes, one after another) * R^T
/// R = diag(signs) H, H block-diagonal: Hadamard matrices of size `block` over sqrt(block).
struct VectorFormat {
  int dim = 8;        // weights of a code; 8 / dim bits a weight
  int64_t block = 1;  // size of a Hadamard block, a power of two that divides n_in
  uint64_t seed = 0;  // of the signs; the same for all deltas of a base
  bool operator==(const VectorFormat&) const = default;
};

/// How a tensor of the fine-tune is stored.
enum class Codec : uint8_t {
  kRaw,      // the tensor itself, in raw_dtype; replaces the base's
  kDense,    // the delta as one coded array
  kLowRank,  // the delta as U diag(s) V, in tiers
  kVector,   // the delta as entries of a code book, rotated
};
std::string_view codec_name(Codec codec) noexcept;  // "raw", "dense", "lowrank", "vector"

/// Describes the stored bytes ("blob") of one tensor completely: nothing about them depends on the
/// program's version. The parts of a blob follow each other, each aligned to 16 bytes:
///   raw       values [shape] raw_dtype
///   dense     codes, scales of [base_rows, n_in]                            | added rows
///   lowrank   s [rank] bf16 | per tier: V codes, V scales, U^T codes, U^T scales | gains | added
///   rows vector    row scales [base_rows] f16 | codes [base_rows, ceil(n_in / dim)] u8 | gains |
///   added rows
/// Gains are optional, u8 each (gain_of()): the delta is diag(row_gain) D diag(col_gain), D what
/// the codes say. Rows >= base_rows (vocabulary that the base does not have) are whole, [added,
/// n_in] raw_dtype.
struct MatrixFormat {
  Codec codec = Codec::kRaw;
  Shape shape;                     // of the fine-tune's tensor: [n_out, n_in], or [n] if raw
  DType raw_dtype = DType::kBf16;  // of raw values and added rows
  int64_t base_rows = 0;           // rows that the base has too; = n_out for most
  ArrayFormat dense;
  std::vector<TierFormat> tiers;
  VectorFormat vector = {};
  bool row_gain = false;  // u8 [base_rows], lowrank only: a vector code has row scales
  bool col_gain = false;  // u8 [n_in], lowrank and vector

  int64_t n_out() const noexcept { return shape.empty() ? 1 : shape[0]; }
  int64_t n_in() const noexcept { return shape.size() < 2 ? 1 : shape[1]; }
  int64_t added_rows() const noexcept { return codec == Codec::kRaw ? 0 : n_out() - base_rows; }
  int64_t rank() const noexcept;  // over all tiers
  bool operator==(const MatrixFormat&) const = default;
};

/// A run of bytes inside a blob.
struct Part {
  int64_t offset = 0;
  int64_t bytes = 0;
};

/// Where codes and scales of one array lie.
struct ArrayLayout {
  Part codes;
  Part scales;  // f16 [ceil(rows / scale_rows), ceil(cols / scale_cols)], row-major
};

struct TierLayout {
  ArrayLayout v;
  ArrayLayout u;
};

/// Offsets of all parts of a blob.
struct BlobLayout {
  Part raw;  // raw values
  ArrayLayout dense;
  Part s;  // singular values
  std::vector<TierLayout> tiers;
  Part row_scale, vector_codes;
  Part row_gain, col_gain;
  Part added;  // added rows
  int64_t total_bytes = 0;
};

inline constexpr int64_t kPartAlignment = 16;  // bytes; one SIMD or cp.async unit

int64_t code_bytes(const ArrayFormat& format, int64_t rows, int64_t cols) noexcept;
int64_t scale_count(const ArrayFormat& format, int64_t rows, int64_t cols) noexcept;
BlobLayout layout_of(const MatrixFormat& format);

/// Checks a format that comes from a file: known widths, positive extents, scale blocks that no sum
/// overflows with, at most kMaxTiers tiers, ranks within the shape. Throws kCorrupt naming
/// `tensor`.
void validate(const MatrixFormat& format, const std::string& tensor);

}  // namespace deltacome
