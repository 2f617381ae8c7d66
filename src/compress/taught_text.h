// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "model/backward.h"
#include "model/teacher.h"

namespace deltacome {

/// Calibration text with what the fine-tune says about it.
struct TaughtText {
  std::vector<std::vector<int32_t>> sequences;
  TopTargets targets;          // of the tokens of all sequences, in order
  std::vector<float> weights;  // of each token's loss, 1 on average; empty = all 1
};

int64_t count_tokens(const std::vector<std::vector<int32_t>>& sequences);

/// The first sequences of a text, until they have n_tokens.
TaughtText first_tokens(const TaughtText& text, int64_t n_tokens);

/// Weights of positions: 1 / (H + 0.1), H the entropy of the teacher's prediction in nats, brought
/// to a mean of 1. A text's mean KL is that of its least certain tokens: what a prompt says next
/// is open, and a mean over prompts and answers is made of prompts. What is certain is what the
/// fine-tune learned to say, and where an error changes the answer.
std::vector<float> certainty_weights(const TopTargets& targets);

/// A token for each position, drawn from the targets (their tail left out).
std::vector<int32_t> draw_labels(const TopTargets& targets, uint64_t seed);

/// Means of KL(fine-tune || base + delta) and of weight * KL per token of the text.
KlSums mean_kl(BackwardPass& pass, const TaughtText& text);

/// One run over the chosen sequences of a text; `offsets`: where the sequences' tokens begin.
KlSums run_on(BackwardPass& pass, const TaughtText& text, const std::vector<int64_t>& offsets,
              std::span<const size_t> chosen, bool backward);

/// [n_sequences + 1]
std::vector<int64_t> offsets_of(const TaughtText& text);

}  // namespace deltacome
