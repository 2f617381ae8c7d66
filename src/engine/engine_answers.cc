// SPDX-License-Identifier: Apache-2.0
// EngineLoop: what happens to the answers of a request. All on the engine thread.
#include <algorithm>
#include <new>

#include "core/check.h"
#include "engine/engine_loop.h"

namespace deltacome {

/// Takes `state` over, unless there is no memory to know it by.
void EngineLoop::start(std::unique_ptr<RequestState>& state) {
  finished_.reserve(requests_.size() + 1);
  std::unique_ptr<RequestState>& place = requests_[state->id];
  place = std::move(state);
  RequestState& request = *place;
  for (const auto& answer : request.answers) {
    answer->id = next_sequence_++;
    answer->arrival_s = now_s();
  }
  if (broken_down_) return;  // it ends with the others
  try {
    if (request.request.deadline) deadlines_.emplace(*request.request.deadline, request.id);
    AnswerState& first = *request.answers.front();
    scheduler_.add(first);
    first.queued = true;
  } catch (const std::bad_alloc&) {
    end_for_memory(request);
  }
}

/// Called by the scheduler while it looks through its queue: a fault is kept for later.
bool EngineLoop::bind(AnswerState& answer) {
  if (answer.fault) return false;
  try {
    const VariantUse& use = answer.request->use;
    if (use.entry != nullptr) {
      answer.hold = store_.try_hold(use);
      if (!answer.hold) return false;
    }
    bind_to(answer);
    return true;
  } catch (const Error& error) {
    answer.fault = error;
  } catch (const std::bad_alloc&) {
    answer.fault = Error(ErrorCode::kOutOfMemory, "the machine has no memory for the request");
  } catch (const std::exception& error) {
    answer.fault = Error(ErrorCode::kInternal, error.what());
  }
  faulty_.push_back(&answer);
  return false;
}

/// Everything that depends on the variant, from here to the answer's end (E4).
void EngineLoop::bind_to(AnswerState& answer) {
  const EngineRequest& r = answer.request->request;
  const ModelConfig& config = answer.hold ? answer.hold->config : model_.config();
  if (answer.hold) answer.model_variant = answer.hold->variant;
  answer.vocab_size = model_.vocab_size(answer.model_variant);
  const std::string of = r.variant.empty() ? "the base" : fmt::format("variant \"{}\"", r.variant);
  const auto check_token = [&](const char* what, int32_t token) {
    if (token >= 0 && token < answer.vocab_size) return;
    fail(ErrorCode::kInvalidArgument, "{} {} is outside of the vocabulary of {} of {}", what, token,
         answer.vocab_size, of);
  };
  for (const int32_t token : r.prompt) check_token("prompt token", token);
  for (const int32_t token : r.stop_ids) check_token("stop id", token);
  check_sampling(r.sampling, answer.vocab_size);
  const int64_t room = std::min(config.max_positions, n_blocks_ * kKvBlock) - answer.n_prompt;
  if (room < 1) {
    fail(ErrorCode::kInvalidArgument, "the prompt has {} tokens, the context of {} holds {}",
         answer.n_prompt, of, config.max_positions);
  }
  answer.max_tokens = std::min(r.max_tokens, room);
  answer.end_ids.insert(r.stop_ids.begin(), r.stop_ids.end());
  for (const int64_t id : config.eos_token_ids) {
    if (!r.ignore_eos && id >= 0 && id < answer.vocab_size)
      answer.end_ids.insert(static_cast<int32_t>(id));
  }
  answer.banned.assign(answer.end_ids.begin(), answer.end_ids.end());
  const TextAssets* text = answer.hold ? answer.hold->text.get() : base_text_.get();
  if (!r.stop.empty()) text->need_tokenizer();
  answer.min_tokens = r.min_tokens;
  if (r.constraint) answer.matcher.emplace(masks_of(*r.constraint, *text));
  answer.text.emplace(text->tokenizer(), r.skip_special_tokens, r.stop, r.include_stop);
  answer.history = TokenHistory(r.prompt);
  const std::string salt =
      options_.prefix_cache ? r.cache_salt : fmt::format("request {}", answer.request->id);
  RequestPictures& pictures = answer.request->pictures;
  if (!pictures.empty() && pictures.tower == nullptr) {
    const VariantVision& vision = answer.hold ? answer.hold->vision : base_vision_;
    if (vision.tensors == nullptr)
      fail(ErrorCode::kInvalidArgument, "{} takes no pictures: it has no vision tower", of);
    pictures.tower = towers_.of(vision.tensors);
  }
  // Each place of a scored prompt has to be computed: nothing of another request is its prefix.
  const std::string extra =
      r.prompt_logprobs ? fmt::format("scored in request {}", answer.request->id) : r.extra_hash;
  answer.root = prefix_root(answer.hold ? answer.hold->content_hash : "",
                            options_.share_prefixes ? "" : r.tenant, salt, extra);
}

void EngineLoop::add_followers(RequestState& request) {
  const AnswerState& first = *request.answers.front();
  for (size_t i = 1; i < request.answers.size(); ++i) {
    AnswerState& answer = *request.answers[i];
    if (answer.ended) continue;
    answer.tokens = request.request.prompt;
    answer.n_prompt = answer.n_tokens();
    answer.hold = store_.again(first.hold);
    bind_to(answer);
    answer.bound = true;
    scheduler_.add(answer);
    answer.queued = true;
  }
}

void EngineLoop::take(const StepToken& step) {
  AnswerState& answer = *step.answer;
  const EngineRequest& r = answer.request->request;
  const bool is_first = answer.n_output() == 0;
  if (answer.choice == 0 && is_first) add_followers(*answer.request);
  ++counts_.output_tokens;
  TokenEvent event;
  if (is_first) {
    answer.first_token_s = now_s();
    event.prompt_logprobs = std::exchange(answer.prompt_logprobs, {});
  }
  if (step.logprobs) {
    event.logprob = step.logprobs->chosen;
    event.top_logprobs = step.logprobs->top;
  }
  if (step.impossible) {
    event.error = Error(ErrorCode::kInvalidArgument,
                        "the constraint, logit_bias and the vocabulary leave no token to choose");
    return end(answer, FinishReason::kError, std::move(event));
  }
  if (answer.end_ids.contains(step.token) && answer.may_end()) {
    event.stop_id = step.token;
    answer.tokens.push_back(step.token);  // it was generated, though it is no part of the answer
    return end(answer, FinishReason::kStop, std::move(event));
  }
  answer.tokens.push_back(step.token);
  answer.history.add_output(step.token);
  if (answer.matcher) DELTACOME_CHECK(answer.matcher->accept(step.token));
  event.token = step.token;
  event.text = answer.text->push(step.token, answer.n_output() >= r.min_tokens);
  if (answer.text->found()) {
    event.stop_text = *answer.text->found();
    return end(answer, FinishReason::kStop, std::move(event));
  }
  // Whatever min_tokens says: nothing can be added.
  if (answer.matcher && answer.matcher->must_end())
    return end(answer, FinishReason::kStop, std::move(event));
  if (answer.n_output() >= answer.max_tokens)
    return end(answer, FinishReason::kLength, std::move(event));
  event.choice = answer.choice;
  emit(*answer.request, std::move(event));
}

/// If there is no memory for the event, throws and has ended nothing.
void EngineLoop::end(AnswerState& answer, FinishReason reason, TokenEvent event) {
  if (answer.ended) return;
  RequestState& request = *answer.request;
  event.choice = answer.choice;
  if (answer.text) event.text += answer.text->finish();
  event.finish = reason;
  event.prompt_tokens = static_cast<int64_t>(request.request.prompt.size());
  event.cached_tokens = std::max<int64_t>(answer.n_cached_prompt, 0);
  event.output_tokens = answer.n_output();
  const double now = now_s();
  const double first_step = answer.first_step_s < 0 ? now : answer.first_step_s;
  const double first_token = answer.first_token_s < 0 ? now : answer.first_token_s;
  event.queue_s = first_step - answer.arrival_s;
  event.prefill_s = first_token - first_step;
  event.decode_s = now - first_token;
  if (answer.hold) event.variant_hash = answer.hold->content_hash;
  emit(request, std::move(event));
  answer.ended = true;
  if (--request.n_open == 0) finished_.push_back(request.id);
  answer.matcher.reset();
  answer.text.reset();  // its decoder needs the hold's tokenizer
  answer.model_variant = {};
  answer.hold = {};
  switch (reason) {
    case FinishReason::kNone:
      break;
    case FinishReason::kStop:
      ++counts_.finished_stop;
      break;
    case FinishReason::kLength:
      ++counts_.finished_length;
      break;
    case FinishReason::kCancelled:
      ++counts_.cancelled;
      break;
    case FinishReason::kDeadline:
      ++counts_.expired;
      break;
    case FinishReason::kError:
      ++counts_.failed;
      break;
  }
  // Last: if it finds the scheduler in disorder, the answer has ended all the same.
  if (std::exchange(answer.queued, false) && !broken_down_) scheduler_.remove(answer);
}

void EngineLoop::end_for_memory(RequestState& request) {
  const Error error(ErrorCode::kOutOfMemory, "the machine has no memory for the request");
  end_all(request, FinishReason::kError, &error);
}

void EngineLoop::end_all(RequestState& request, FinishReason reason, const Error* error) {
  for (const auto& answer : request.answers) {
    TokenEvent event;
    if (error != nullptr) event.error = *error;
    end(*answer, reason, std::move(event));
  }
}

void EngineLoop::emit(const RequestState& request, TokenEvent event) {
  event.request = request.id;
  if (*request.on_event == nullptr) return;
  outbox_.push_back([this, handler = request.on_event, event = std::move(event)] {
    try {
      (*handler)(event);
    } catch (...) {
      cancel(event.request);  // whoever listens is gone
    }
  });
}

}  // namespace deltacome
