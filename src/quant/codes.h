// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/format.h"

namespace deltacome {

/// Offset that makes codes symmetric: value = scale * (code - code_center(bits)).
inline float code_center(int bits) noexcept {
  return 0.5f * static_cast<float>((1 << bits) - 1);
}

/// An array before packing or after unpacking. codes [rows, cols]; scales as in ArrayLayout. For 16
/// bits `values` holds the elements and codes and scales are empty.
struct CodedArray {
  ArrayFormat format;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales;  // fp16 bits
  std::vector<uint16_t> values;  // fp16 bits, 16-bit arrays only
};

/// Writes an array's codes and scales at their places in a blob.
void pack(const CodedArray& array, const ArrayLayout& layout, std::span<std::byte> blob);
CodedArray unpack(const ArrayFormat& format, int64_t rows, int64_t cols, const ArrayLayout& layout,
                  std::span<const std::byte> blob);

/// Value of every element, [rows, cols] row-major; the scalar oracle of all kernels.
std::vector<float> decode(const CodedArray& array);

/// Gains of a part of a blob, decoded; empty if the part is.
std::vector<float> decode_gains(std::span<const std::byte> blob, const Part& part);

/// Stored values of a matrix's delta, gains included. For kLowRank u [base_rows, rank], s [rank],
/// v [rank, n_in]; for kDense and kVector v is the delta [base_rows, n_in] and u, s are empty.
struct DecodedDelta {
  std::vector<float> u, s, v;
};
DecodedDelta decode_delta(const MatrixFormat& format, std::span<const std::byte> blob);

}  // namespace deltacome
