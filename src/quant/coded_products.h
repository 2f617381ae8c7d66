// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "quant/format.h"

namespace deltacome {

// What all backends agree on when they multiply codes as they are stored: inputs become integers,
// groups of them share a scale, and sums of products of integers are exact.

inline constexpr int64_t kActivationGroup = 128;  // inputs of packed codes that share a scale
inline constexpr float kActivationLevels = 127;   // of the largest magnitude of a group
inline constexpr int64_t kEntryGroup = 64;        // vector codes whose inputs share a scale

/// Levels of the inputs of vector codes of `dim`: as many as leave the products with any entry of
/// the book sums of 16 bits, at most kActivationLevels.
float entry_levels(int dim);

bool has_one_scale(const ArrayFormat& format) noexcept;
/// Whether an array of V or of a dense delta, or of U^T (stored by component, multiplied by
/// output), is multiplied as it is. Others are decoded.
bool can_pack(const ArrayFormat& format) noexcept;
bool can_pack_transposed(const ArrayFormat& format) noexcept;
/// Whether all arrays of a dense or low-rank tensor are.
bool can_pack(const MatrixFormat& format);

}  // namespace deltacome
