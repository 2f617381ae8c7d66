// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/model.h"

namespace deltacome {

/// A text whose tokens from `first_scored` on are scored, each given all before it.
struct ScoredText {
  std::vector<int32_t> tokens;
  int64_t first_scored = 1;  // at least 1
  Tensor given = {};         // rows that ids below 0 stand for (model/given_rows.h); never scored
  Tensor reference_given = {};  // the same for the reference; empty: those of the candidate
};

/// BOS + whole + EOS, `whole` the tokens of prompt + response tokenized as one text. Scored from
/// the first token on in which it differs from `prompt`, the prompt tokenized alone.
ScoredText scored_response(const ModelConfig& config, std::span<const int32_t> prompt,
                           std::span<const int32_t> whole);

/// Sums over scored tokens; divide by `tokens`.
struct Score {
  double nll = 0;    // -log q(token)
  double kl = 0;     // KL(p || q), p the reference and q the candidate, over the whole vocabulary
  int64_t top1 = 0;  // positions where p and q have the same most likely token
  int64_t tokens = 0;
};

/// Scores a candidate, and compares it with a reference if there is one, each text on its own.
/// Softmax and sums in float64; if the vocabularies differ, over the rows that both have.
/// on_progress(texts done).
Score score_texts(const Model& candidate, const Variant& variant, const Model* reference,
                  Stream& stream, std::span<const ScoredText> texts,
                  const std::function<void(int64_t)>& on_progress = {});

}  // namespace deltacome
