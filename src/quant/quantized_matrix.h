// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/host_tensor.h"

namespace deltacome {

/// A matrix [n_out, n_in] of a checkpoint in low precision, one form for all schemes:
///   w[o, order[i]] = scales[o, i / group] * (levels[codes[o, i]] - zeros[o, i / group])
/// The product of a 16-bit scale and a code is exact in f32, so this is the scheme's own value
/// before it is rounded to `dtype`.
struct QuantizedMatrix {
  int64_t n_out = 0, n_in = 0;
  int64_t group = 0;           // columns of codes that share a scale; the last group may be cut
  int bits = 4;                // of a code: 4 or 8
  DType dtype = DType::kF16;   // that the checkpoint computes in: F16, BF16 or F32
  std::vector<uint8_t> codes;  // [n_out, n_in], a byte each
  std::vector<float> levels;   // [2^bits] values of the codes; empty: the codes themselves
  std::vector<float> scales;   // [n_out, n_groups()]
  std::vector<float> zeros;    // the same, or empty: 0
  std::vector<int32_t> order;  // [n_in] permutation (activation order); empty: as they are

  int64_t n_groups() const noexcept { return (n_in + group - 1) / group; }
  bool is_uniform() const noexcept { return levels.empty(); }
  /// Values of row o; out [n_in], in the matrix's own column order.
  void decode_row(int64_t o, std::span<float> out) const;
  /// The matrix in `dtype`, rounded to nearest even, in memory of its own.
  HostTensor dequantize() const;
};

}  // namespace deltacome
