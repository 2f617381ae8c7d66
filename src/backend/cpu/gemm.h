// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels.h"
#include "core/dtype.h"

namespace deltacome::cpu {

/// Inputs of one pass of the inner loops. Sums run over pieces of this many inputs and the pieces
/// are added in order, whatever the number of rows: part of what a result is bitwise. 4 rows of
/// weights and 6 of x fill 40 KiB, so they stay in a first-level cache of 48 KiB.
inline constexpr int64_t kInputBlock = 1024;

/// A row-major matrix [n_rows, n_in] of a floating dtype; need not be aligned.
struct WeightView {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t n_rows = 0;
  int64_t n_in = 0;
};

/// Rows of activations, by pointer: the rows of one variant need not be neighbours.
struct RowSet {
  const float* const* x = nullptr;  // [n]
  float* const* y = nullptr;        // [n]
  int64_t n = 0;
};

/// Floats of scratch that multiply() needs.
int64_t multiply_scratch() noexcept;

/// y[r][y_first + o] = W[first + o] x[r] for o < count. A result does not depend on the other rows.
void multiply(const Kernels& kernels, const WeightView& w, int64_t first, int64_t count,
              const RowSet& rows, int64_t y_first, float* scratch);

}  // namespace deltacome::cpu
