// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "backend/backend.h"

namespace deltacome::cpu {

/// The next token of one row by SampleParams; logits [params.vocab_size]. Candidates are ordered by
/// probability, then id, so the same row, parameters and `uniform` give the same token everywhere.
/// Sums are taken in f64. A NaN is never chosen.
int32_t sample_row(std::span<const float> logits, const SampleParams& params);

}  // namespace deltacome::cpu
