// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "deltacome/export.h"

namespace deltacome {

/// How the deltas of one tensor are combined.
struct CombineRule {
  Combination combination = Combination::kLinear;
  std::vector<double> weights;  // one a delta
  double density = 1;           // kTies, kDare: share of elements that are kept, (0, 1]
  uint64_t seed = 0;            // kDare
};

/// The combination of deltas of equal size, element by element (docs/export.md). `tensor` makes the
/// random choices of kDare differ between tensors; they depend on nothing else but the seed and
/// the delta's place. The deltas are overwritten.
std::vector<float> combine(const CombineRule& rule, std::string_view tensor,
                           std::vector<std::vector<float>>& deltas);

}  // namespace deltacome
