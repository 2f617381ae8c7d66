// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "deltacome/request.h"

namespace deltacome {

/// Throws kInvalidArgument for a value out of range, naming it.
void check_sampling(const SamplingParams& params, int64_t vocab_size);

/// Which tokens one answer has seen: what penalties depend on. A function of the prompt and the
/// output so far, which a preemption does not change.
class TokenHistory {
 public:
  explicit TokenHistory(std::span<const int32_t> prompt = {});
  void add_output(int32_t token);

  /// logits [vocab]; changes those of tokens that were seen. vLLM's formulas.
  void penalize(const SamplingParams& params, std::span<float> logits) const;

 private:
  std::unordered_map<int32_t, int64_t> outputs_;  // how often
  std::unordered_map<int32_t, bool> seen_;        // in prompt or outputs
};

/// True if the choice needs nothing but the device's sampler: no logits come to the host. (With
/// min_p its order of filters is another one than vLLM's.)
bool is_plain(const SamplingParams& params) noexcept;

/// Takes away all tokens of logits [vocab] that neither the bits of `mask` nor `others` name.
void allow_only(std::span<float> logits, std::span<const uint32_t> mask,
                std::span<const int32_t> others);

/// The token by `params` from logits [vocab], which it overwrites; `banned` cannot be chosen.
/// Candidates are ordered by probability, then id, so that the same logits and `uniform` in [0, 1)
/// give the same token everywhere. Sums in f64; a NaN is never chosen.
int32_t choose_token(std::span<float> logits, const SamplingParams& params,
                     const TokenHistory& history, std::span<const int32_t> banned, double uniform);

/// Log probabilities of `token` and of the `n` likeliest, likeliest first, from unchanged logits.
Logprobs logprobs_of(std::span<const float> logits, int32_t token, int n);

/// Seed of answer `choice` of a request: answers of one request differ.
uint64_t choice_seed(uint64_t seed, int choice) noexcept;

}  // namespace deltacome
