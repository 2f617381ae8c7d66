// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "deltacome/request.h"
#include "engine/answer_text.h"
#include "engine/request_pictures.h"
#include "engine/sampler.h"
#include "engine/sequence_state.h"
#include "engine/variant_store.h"
#include "grammar/token_masks.h"

namespace deltacome {

struct RequestState;

/// One answer while it is made. Of the engine thread alone.
struct AnswerState : SequenceState {
  RequestState* request = nullptr;
  int choice = 0;
  uint64_t seed = 0;
  bool queued = false;  // the scheduler knows it
  bool ended = false;
  bool counted = false;  // in the statistics of the prefix cache

  // Set when it is bound:
  VariantHold hold;  // empty = base
  Variant model_variant;
  int64_t vocab_size = 0;
  int64_t max_tokens = 0;  // of the output, with what is left of the context
  int64_t min_tokens = 0;
  std::set<int32_t> end_ids;
  std::vector<int32_t> banned;  // the same, while it may not end
  std::optional<AnswerText> text;
  std::optional<grammar::Matcher> matcher;  // of the constraint, if there is one
  TokenHistory history;
  std::vector<Logprobs> prompt_logprobs;         // as far as they are known, if they were asked for
  double first_step_s = -1, first_token_s = -1;  // as EngineLoop::now_s(); -1 = not yet
  std::optional<Error> fault;                    // found while it was bound

  int64_t n_output() const noexcept { return n_tokens() - n_prompt; }
  /// Its prompt's log probabilities are asked for and not all known. Of the request's first answer.
  bool wants_prompt_logprobs() const noexcept;
  /// Whether it may end here: by its minimum of tokens and by its constraint.
  bool may_end() const noexcept {
    return n_output() >= min_tokens && (!matcher || matcher->may_end());
  }
};

/// A request while it is served. Of the engine thread alone, but for what is const.
struct RequestState {
  uint64_t id = 0;
  EngineRequest request;
  RequestPictures pictures;
  std::shared_ptr<const std::function<void(const TokenEvent&)>> on_event;
  VariantUse use;
  bool begun = false;  // it does not count as waiting any more
  std::vector<std::unique_ptr<AnswerState>> answers;
  int n_open = 0;  // answers that have not ended
};

inline bool AnswerState::wants_prompt_logprobs() const noexcept {
  return choice == 0 && n_output() == 0 && request->request.prompt_logprobs &&
         static_cast<int64_t>(prompt_logprobs.size()) < n_prompt - 1;
}

}  // namespace deltacome
