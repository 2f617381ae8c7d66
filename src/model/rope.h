// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "io/model_config.h"

namespace deltacome {

/// Angle per position of each rotated pair, [head_dim / 2]: theta^(-2 i / head_dim), scaled as
///   linear  f / factor
///   llama3  f where its wavelength is short, f / factor where it is long, a blend between
/// Ref: Su et al., RoFormer, arXiv:2104.09864; the llama3 rule is that of Llama 3.1's published
/// code.
std::vector<float> rope_frequencies(const RopeConfig& rope, int64_t head_dim);

}  // namespace deltacome
