// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "model/backward.h"
#include "model/teacher.h"

namespace deltacome {

inline constexpr int64_t kStepTokens = 1024;  // of one backward pass, or the one sequence's

/// Calibration text with what the fine-tune says about it.
struct TaughtText {
  std::vector<std::vector<int32_t>> sequences;
  TopTargets targets;  // of the tokens of all sequences, in order
};

int64_t count_tokens(const std::vector<std::vector<int32_t>>& sequences);

/// The first sequences of a text, until they have n_tokens.
TaughtText first_tokens(const TaughtText& text, int64_t n_tokens);

/// A token for each position, drawn from the targets (their tail left out).
std::vector<int32_t> draw_labels(const TopTargets& targets, uint64_t seed);

/// Mean KL(fine-tune || base + delta) per token of the text.
double mean_kl(BackwardPass& pass, const TaughtText& text);

/// Groups of neighbours among n_sequences of at most n_tokens, or of one sequence.
std::vector<std::vector<size_t>> batches_of(const TaughtText& text, int64_t n_tokens);

/// One run over the chosen sequences of a text; `offsets`: where the sequences' tokens begin.
double run_on(BackwardPass& pass, const TaughtText& text, const std::vector<int64_t>& offsets,
              std::span<const size_t> chosen, bool backward);

/// [n_sequences + 1]
std::vector<int64_t> offsets_of(const TaughtText& text);

}  // namespace deltacome
