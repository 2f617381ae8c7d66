// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"
#include "text/tokenizer.h"

namespace deltacome {

inline constexpr int64_t kCheckedTokens = 4096;  // of calibration text, at most

/// How well both models of a pair predict a text, in nats per token. tokens 0: nothing to measure.
struct TextFit {
  double finetuned_nll = 0, base_nll = 0;
  int64_t tokens = 0;
};

/// Measures on at most kCheckedTokens, sequences spread over all; those with tokens that the base
/// lacks are left out. `given`: rows that ids below 0 stand for, for both models.
TextFit measure_text(const Model& base, const Model& finetuned, Stream& stream,
                     std::span<const std::vector<TokenId>> sequences, const Tensor& given = {});

/// What to tell the user of text that is not of the fine-tune's own kind; "" if it is.
std::string generic_text_note(const TextFit& fit);

}  // namespace deltacome
