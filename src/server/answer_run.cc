// SPDX-License-Identifier: Apache-2.0
#include "server/answer_run.h"

#include <algorithm>
#include <numeric>

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

struct AnswerRun::Choice {
  size_t prompt = 0;
  int index = 0;  // in the response, if every answer is shown
  std::string text = {};
  std::vector<ShownToken> tokens = {};
  double logprob_sum = 0;
  int64_t n_tokens = 0;
  bool begun = false, role_sent = false;
  int64_t n_characters = 0;  // of a stream's tokens so far
  Clock::time_point first_token = {}, last_token = {};
  std::unique_ptr<ToolCallParser> tools = {};
  TokenEvent last = {};  // the event that ended it
};

AnswerRun::AnswerRun(AnswerRunContext context, AnswerRequest request,
                     std::vector<PreparedPrompt> prompts, AnswerHead head,
                     std::shared_ptr<ResponseStream> out, Clock::time_point received)
    : context_(std::move(context)),
      request_(std::move(request)),
      prompts_(std::move(prompts)),
      head_(std::move(head)),
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

AnswerRun::~AnswerRun() = default;

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
  // With the first event, which is choice 0's.
  if (request_.engine.prompt_logprobs && prompts_[prompt].shown.empty() && !is_fault(event.finish))
    show_prompt(prompts_[prompt], event.prompt_logprobs);
  const bool ends = event.finish != FinishReason::kNone;
  if (ends) {
    choice.last = event;
    --n_open_;
  }
  if (!over_) {
    if (is_fault(event.finish)) {
      fail(error_of(event));
    } else if (request_.stream) {
      stream_event(choice, event);
    } else {
      choice.text += event.text;
      if (request_.engine.logprobs && event.logprob)
        choice.tokens.push_back(shown(*event.token, *event.logprob, event.top_logprobs));
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

/// The token's own text. Some tokenizers drop a space at the beginning of a text: the token is
/// decoded behind another one.
std::string AnswerRun::token_text(int32_t token) const {
  const std::string& variant = request_.engine.variant;
  try {
    const std::string once = context_.engine.decode(variant, {token}, false);
    const std::string twice = context_.engine.decode(variant, {token, token}, false);
    return twice.starts_with(once) ? twice.substr(once.size()) : once;
  } catch (const Error&) {  // no tokenizer
    return "token_id:" + std::to_string(token);
  }
}

ShownToken AnswerRun::shown(int32_t token, double logprob,
                            const std::vector<TokenLogprob>& top) const {
  ShownToken out{token_text(token), logprob};
  for (const TokenLogprob& each : top) out.top.emplace_back(token_text(each.token), each.logprob);
  return out;
}

void AnswerRun::show_prompt(PreparedPrompt& prompt, const std::vector<Logprobs>& logprobs) const {
  for (size_t i = 0; i < prompt.tokens.size(); ++i) {
    if (i == 0 || i > logprobs.size()) {
      prompt.shown.push_back({.text = token_text(prompt.tokens[i])});
    } else {
      prompt.shown.push_back(shown(prompt.tokens[i], logprobs[i - 1].chosen, logprobs[i - 1].top));
    }
  }
}

Json AnswerRun::stop_reason(const TokenEvent& event) const {
  if (!event.stop_text.empty()) return event.stop_text;
  if (event.stop_id) {
    const auto& ids = request_.engine.stop_ids;  // an end-of-sequence id is not named
    if (std::find(ids.begin(), ids.end(), *event.stop_id) != ids.end()) return *event.stop_id;
  }
  return nullptr;
}

void AnswerRun::stream_event(Choice& choice, const TokenEvent& event) {
  if (!begun_) {
    begun_ = true;
    out_->begin({.content_type = "text/event-stream; charset=utf-8",
                 .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
  }
  const bool ends = event.finish != FinishReason::kNone;
  buffer_.clear();
  Chunk chunk{.index = choice.index, .finish_reason = {}};
  Json logprobs, reason, counts, calls;
  const auto show_logprobs = [&](const std::vector<ShownToken>& tokens) {
    logprobs = logprobs_json(head_.chat, tokens, choice.n_characters);
    for (const ShownToken& token : tokens) choice.n_characters += n_characters(token.text);
    chunk.logprobs = &logprobs;
  };
  if (!choice.role_sent) {
    choice.role_sent = true;
    const std::string& echo = prompts_[choice.prompt].text;
    if (head_.chat || !echo.empty()) {
      chunk.first = head_.chat;
      chunk.text = echo;
      if (request_.engine.prompt_logprobs) show_logprobs(prompts_[choice.prompt].shown);
      writer_.append(buffer_, chunk);
      chunk.first = false;
      chunk.logprobs = nullptr;
    }
  }
  if (request_.engine.logprobs && event.logprob)
    show_logprobs({shown(*event.token, *event.logprob, event.top_logprobs)});
  std::string_view finish = finish_name(event.finish);
  std::string content;
  if (choice.tools) {
    ToolText found = choice.tools->push(event.text);
    if (ends) found.content += choice.tools->finish().content;
    content = std::move(found.content);
    chunk.text = content;
    if (!found.calls.empty()) {
      calls = tool_calls_json(found.calls, true);
      chunk.tool_calls = &calls;
    }
    if (ends && choice.tools->n_calls() > 0 && finish == "stop") finish = "tool_calls";
  } else {
    chunk.text = event.text;
  }
  if (ends) {
    chunk.finish_reason = finish;
    reason = stop_reason(event);
    chunk.stop_reason = &reason;
  }
  if (!chunk.text.empty() || chunk.logprobs != nullptr || chunk.tool_calls != nullptr || ends) {
    if (request_.continuous_usage) {
      counts = usage_json({prompts_[choice.prompt].n_tokens, 0, choice.n_tokens});
      chunk.usage = &counts;
    }
    writer_.append(buffer_, chunk);
  }
  if (!buffer_.empty() && !out_->write(buffer_)) cancel();
}

void AnswerRun::finish() {
  over_ = true;
  if (!request_.stream) return send_response();
  buffer_.clear();
  if (request_.include_usage) writer_.append_usage(buffer_, usage());
  buffer_ += kDoneEvent;
  out_->write(buffer_);
  out_->end();
}

void AnswerRun::fail(const ApiError& error) {
  cancel();
  if (!begun_) return out_->send(error_response(error));
  buffer_.clear();
  append_error_event(buffer_, error);
  buffer_ += kDoneEvent;
  out_->write(buffer_);
  out_->end();
}

Usage AnswerRun::usage() const {
  Usage out;
  for (const Choice& choice : choices_) {
    if (choice.index % request_.best_of == 0) {
      out.prompt_tokens += choice.last.prompt_tokens;
      out.cached_tokens += choice.last.cached_tokens;
    }
    out.output_tokens += choice.last.output_tokens;
  }
  return out;
}

/// Of the answers to a prompt, the n whose tokens were likeliest on average, best first; all in
/// their order if none is left out.
std::vector<size_t> AnswerRun::best_choices(size_t prompt) const {
  std::vector<size_t> order(static_cast<size_t>(request_.best_of));
  std::iota(order.begin(), order.end(), prompt * order.size());
  if (request_.best_of == request_.n) return order;
  const auto mean = [&](size_t i) {
    const Choice& choice = choices_[i];
    return choice.logprob_sum / static_cast<double>(std::max<int64_t>(choice.n_tokens, 1));
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return mean(a) > mean(b); });
  order.resize(static_cast<size_t>(request_.n));
  return order;
}

FinishedAnswer AnswerRun::finished(const Choice& choice, int index) const {
  const std::string& echo = prompts_[choice.prompt].text;
  FinishedAnswer out{.index = index,
                     .text = echo + choice.text,
                     .finish_reason = std::string(finish_name(choice.last.finish)),
                     .stop_reason = stop_reason(choice.last)};
  if (request_.engine.logprobs) {
    out.logprobs = prompts_[choice.prompt].shown;
    out.logprobs->insert(out.logprobs->end(), choice.tokens.begin(), choice.tokens.end());
  }
  if (choice.tools) {
    ToolCallParser parser(request_.tools, request_.parallel_tool_calls);
    ToolText found = find_tool_calls(parser, choice.text);
    out.text = std::move(found.content);
    out.tool_calls = std::move(found.calls);
    if (!out.tool_calls.empty() && out.finish_reason == "stop") out.finish_reason = "tool_calls";
  }
  return out;
}

void AnswerRun::send_response() {
  std::vector<FinishedAnswer> answers;
  for (size_t prompt = 0; prompt < prompts_.size(); ++prompt)
    for (const size_t i : best_choices(prompt))
      answers.push_back(finished(choices_[i], static_cast<int>(answers.size())));
  const std::string& hash = choices_[0].last.variant_hash;
  const std::string fingerprint = hash.empty() ? "" : "dc_" + hash.substr(0, 16);
  out_->send({.body = to_text(response_json(head_, answers, usage(), fingerprint))});
}

}  // namespace deltacome::server
