// SPDX-License-Identifier: Apache-2.0
#include "server/answer_run.h"

#include <algorithm>

namespace deltacome::server {
namespace {

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

/// How an answer that was ended from outside is told.
ApiError error_of(const TokenEvent& event) {
  if (event.error) return ApiError(*event.error);
  if (event.finish == FinishReason::kDeadline)
    return ApiError(504, "the request took longer than the server allows");
  return ApiError(503, "the server is stopping").retry_after(5);
}

/// The event of an answer that is asked for its prompt alone.
TokenEvent without_token(const TokenEvent& event) {
  TokenEvent out = event;
  out.token.reset();
  out.text.clear();
  out.logprob.reset();
  out.output_tokens = 0;
  if (out.finish == FinishReason::kStop) out.finish = FinishReason::kLength;
  return out;
}

bool is_fault(FinishReason reason) {
  return reason == FinishReason::kError || reason == FinishReason::kCancelled ||
         reason == FinishReason::kDeadline;
}

}  // namespace

AnswerRun::AnswerRun(AnswerRunContext context, AnswerRequest request,
                     std::vector<PreparedPrompt> prompts, AnswerHead head,
                     std::shared_ptr<ResponseStream> out, Clock::time_point received)
    : context_(std::move(context)),
      request_(std::move(request)),
      prompts_(std::move(prompts)),
      head_(std::move(head)),
      texts_(context_.engine, request_.engine.variant),
      writer_(head_, request_.include_usage && !request_.continuous_usage),
      out_(std::move(out)),
      received_(received),
      n_open_(prompts_.size() * static_cast<size_t>(request_.best_of)) {
  for (size_t i = 0; i < n_open_; ++i) {
    choices_.emplace_back();
    choices_.back().prompt = i / static_cast<size_t>(request_.best_of);
    choices_.back().index = static_cast<int>(i);
    if (request_.tool_choice != ToolChoice::kNone)
      choices_.back().tools =
          std::make_unique<ToolCallParser>(request_.tools, request_.parallel_tool_calls);
  }
}

void AnswerRun::start() {
  std::vector<uint64_t> ids;
  try {
    for (size_t i = 0; i < prompts_.size(); ++i) {
      EngineRequest request = request_.engine;
      if (request.prompt_logprobs) {
        request.prompt = prompts_[i].tokens;
      } else {
        request.prompt = std::move(prompts_[i].tokens);
      }
      if (prompts_[i].constraint) request.constraint = std::move(prompts_[i].constraint);
      // Unequal draws for equal prompts, as if they had been asked for one by one.
      if (request.sampling.seed) *request.sampling.seed += i;
      if (request_.best_of > request_.n && !request.logprobs) request.logprobs = 0;
      const auto handler = [self = shared_from_this(), i](const TokenEvent& event) {
        self->out_->post([self, i, event] {
          self->on_event(i, self->request_.echo_only ? without_token(event) : event);
        });
      };
      ids.push_back(context_.engine.submit(std::move(request), handler));
    }
  } catch (...) {
    // First, so that nobody hears of answers that are cancelled here.
    out_->post([self = shared_from_this()] { self->over_ = self->told_ = true; });
    for (const uint64_t id : ids) context_.engine.cancel(id);
    throw;
  }
  context_.metrics.params_n.observe(request_.n);
  context_.metrics.params_max_tokens.observe(static_cast<double>(request_.engine.max_tokens));
  out_->post([self = shared_from_this(), ids] { self->set_ids(ids); });
  // Weak: the stream must not keep alive what keeps the stream alive.
  out_->on_gone([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->cancel();
  });
}

void AnswerRun::set_ids(std::vector<uint64_t> ids) {
  ids_ = std::move(ids);
  if (over_) cancel();
}

/// Ends what still runs; nothing more is written.
void AnswerRun::cancel() {
  over_ = true;
  if (n_open_ == 0) return;
  for (const uint64_t id : ids_) context_.engine.cancel(id);
}

void AnswerRun::on_event(size_t prompt, const TokenEvent& event) {
  Choice& choice =
      choices_[prompt * static_cast<size_t>(request_.best_of) + static_cast<size_t>(event.choice)];
  measure(choice, event);
  if (request_.engine.prompt_logprobs && !prompts_[prompt].known && !is_fault(event.finish)) {
    prompts_[prompt].known = true;  // with the first event, which is choice 0's
    show_prompt(prompts_[prompt], event.prompt_logprobs);
  }
  const bool ends = event.finish != FinishReason::kNone;
  if (ends) {
    choice.last = event;
    --n_open_;
  }
  if (!over_) {
    if (is_fault(event.finish)) {
      fail(error_of(event));
    } else if (request_.stream) {
      request_.generate ? stream_generate(choice, event) : stream_event(choice, event);
    } else {
      choice.text += event.text;
      if (request_.engine.logprobs && event.logprob) choice.tokens.push_back(shown_token(event));
    }
  }
  if (n_open_ > 0) return;
  if (!over_) finish();
  if (!told_ && context_.on_end) context_.on_end(usage());
  told_ = true;
}

void AnswerRun::measure(Choice& choice, const TokenEvent& event) {
  ServerMetrics& m = context_.metrics;
  const auto now = Clock::now();
  if (event.token) {
    if (!choice.begun) {
      choice.first_token = now;
      if (choice.index == 0) m.time_to_first_token.observe(seconds_between(received_, now));
    } else {
      m.inter_token.observe(seconds_between(choice.last_token, now));
    }
    choice.begun = true;
    choice.last_token = now;
    ++choice.n_tokens;
    choice.logprob_sum += event.logprob.value_or(0);
  }
  if (event.finish == FinishReason::kNone) return;
  m.success.add({{"finished_reason", std::string(finish_name(event.finish))}});
  m.prompt_tokens.observe(static_cast<double>(event.prompt_tokens));
  m.generation_tokens.observe(static_cast<double>(event.output_tokens));
  m.queue.observe(event.queue_s);
  m.prefill.observe(event.prefill_s);
  m.inference.observe(event.prefill_s + event.decode_s);
  if (choice.n_tokens > 1) {
    const double took = seconds_between(choice.first_token, choice.last_token);
    m.decode.observe(took);
    m.per_output_token.observe(took / static_cast<double>(choice.n_tokens - 1));
  }
  if (n_open_ > 1) return;
  m.e2e.observe(seconds_between(received_, now));
  int64_t longest = event.output_tokens;
  for (const Choice& each : choices_) longest = std::max(longest, each.last.output_tokens);
  m.max_generation_tokens.observe(static_cast<double>(longest));
}

void AnswerRun::show_prompt(PreparedPrompt& prompt, const std::vector<Logprobs>& logprobs) const {
  if (request_.generate) {
    prompt.shown = texts_.prompt(prompt.tokens, logprobs, 0);
  } else if (request_.echoes_logprobs()) {
    prompt.shown = texts_.prompt(prompt.tokens, logprobs, *request_.engine.logprobs);
  }
  if (request_.prompt_logprobs)
    prompt.logprobs = prompt_logprobs_json(
        texts_.prompt_guesses(prompt.tokens, logprobs, *request_.prompt_logprobs));
}

ShownToken AnswerRun::shown_token(const TokenEvent& event) const {
  ShownToken out = texts_.shown(*event.token, *event.logprob, event.top_logprobs);
  out.special = request_.generate && texts_.is_special(*event.token);
  return out;
}

}  // namespace deltacome::server
