// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
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

/// Weights of a text's positions, 1 / (H + 0.03) brought to a mean of 1, H the entropy of the
/// fine-tune's predictions in nats, averaged over neighbours in the sequence. What a prompt says
/// next is open, and a mean KL over prompts and answers is that of the prompts; a passage of which
/// the fine-tune is certain is what it learned to say. 0 where a picture's row follows.
std::vector<float> certainty_weights(const TaughtText& text);

/// Weights of a text's positions: 0 where a picture's row follows, which nothing predicts, and
/// alike, with a mean of 1, elsewhere. Empty (all 1) without pictures.
std::vector<float> predicted_weights(const TaughtText& text);

/// Mean of weight * KL(fine-tune || base + delta) per token of the text; no weights = all 1.
double mean_kl(BackwardPass& pass, const TaughtText& text, std::span<const float> weights = {});

/// Groups of neighbours among n_sequences of at most n_tokens, or of one sequence.
std::vector<std::vector<size_t>> batches_of(const TaughtText& text, int64_t n_tokens);

/// One run over the chosen sequences of a text; `offsets`: where the sequences' tokens begin.
double run_on(BackwardPass& pass, const TaughtText& text, const std::vector<int64_t>& offsets,
              std::span<const size_t> chosen, bool backward, std::span<const float> weights = {});

/// [n_sequences + 1]
std::vector<int64_t> offsets_of(const TaughtText& text);

}  // namespace deltacome
