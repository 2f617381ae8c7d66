// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "engine/answer_state.h"
#include "engine/scheduler.h"
#include "model/model.h"

namespace deltacome {

/// The token that a step gave to one answer.
struct StepToken {
  AnswerState* answer = nullptr;
  int32_t token = 0;
  std::optional<Logprobs> logprobs;
  bool impossible = false;  // the constraint leaves no token to choose
};

/// Runs the planned steps of a batch through the model and chooses tokens. What an answer gets
/// depends on its own tokens, parameters and seed alone (E7). Of the engine thread alone.
class StepRunner {
 public:
  StepRunner(const Model& model, Stream& stream, int64_t n_blocks);

  /// Grows the kv.length of every sequence of the step. A token for each whose pending tokens all
  /// were in it. Adds to the prompts' log probabilities of those who want them. Throws what
  /// Model::forward(), Model::logits() and the sampler throw; after the first of them lengths have
  /// grown, so the step's answers must end.
  std::vector<StepToken> run(std::span<const StepItem> items);

  int64_t kv_bytes() const noexcept { return cache_.bytes(); }

 private:
  Tensor place_given_rows(AnswerState& answer, std::span<const int32_t>& chunk,
                          std::deque<std::vector<int32_t>>& placed);
  void choose(const Tensor& logits, std::span<StepToken> tokens);
  void score_prompt(const HiddenRows& rows, int64_t first, AnswerState& answer, int64_t n_tokens);

  const Model& model_;
  Stream& stream_;
  KvCache cache_;  // BlockPool says whose its blocks are
  DecodeMemory decoding_;
};

}  // namespace deltacome
