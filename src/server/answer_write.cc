// SPDX-License-Identifier: Apache-2.0
// AnswerRun: what the client is told. On the connection's thread.
#include <algorithm>
#include <numeric>

#include "server/answer_run.h"

namespace deltacome::server {

Json AnswerRun::stop_reason(const TokenEvent& event) const {
  if (!event.stop_text.empty()) return event.stop_text;
  if (event.stop_id) {
    const auto& ids = request_.engine.stop_ids;  // an end-of-sequence id is not named
    if (std::find(ids.begin(), ids.end(), *event.stop_id) != ids.end()) return *event.stop_id;
  }
  return nullptr;
}

void AnswerRun::begin_stream() {
  if (begun_) return;
  begun_ = true;
  out_->begin({.content_type = "text/event-stream; charset=utf-8",
               .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
}

GenerateCounts AnswerRun::generate_counts(const Choice& choice) const {
  return {choice.last.prompt_tokens, choice.last.output_tokens, request_.engine.sampling.seed};
}

void AnswerRun::stream_generate(Choice& choice, const TokenEvent& event) {
  begin_stream();
  choice.text += event.text;
  ShownToken token{.id = event.stop_id.value_or(0),
                   .special = true};  // of the end, without a token
  if (event.logprob) token = shown_token(event);
  token.text = event.text;
  buffer_.clear();
  if (event.finish == FinishReason::kNone) {
    append_generate_event(buffer_, token, nullptr, {});
  } else {
    const FinishedAnswer whole = finished(choice, 0);
    append_generate_event(buffer_, token, &whole, generate_counts(choice));
  }
  if (!out_->write(buffer_)) cancel();
}

void AnswerRun::stream_event(Choice& choice, const TokenEvent& event) {
  begin_stream();
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
      if (request_.echoes_logprobs()) show_logprobs(prompts_[choice.prompt].shown);
      writer_.append(buffer_, chunk);
      chunk.first = false;
      chunk.logprobs = nullptr;
    }
  }
  if (request_.engine.logprobs && event.logprob) show_logprobs({shown_token(event)});
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
  if (!request_.generate) buffer_ += kDoneEvent;
  if (!buffer_.empty()) out_->write(buffer_);
  out_->end();
}

void AnswerRun::fail(const ApiError& error) {
  cancel();
  if (!begun_)
    return out_->send(request_.generate ? generate_error_response(error) : error_response(error));
  buffer_.clear();
  if (request_.generate) {
    append_generate_error(buffer_, error);
  } else {
    append_error_event(buffer_, error);
    buffer_ += kDoneEvent;
  }
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
                     .stop_reason = stop_reason(choice.last),
                     .prompt_logprobs = prompts_[choice.prompt].logprobs};
  if (request_.engine.logprobs) {
    out.logprobs.emplace();
    if (request_.echoes_logprobs()) out.logprobs = prompts_[choice.prompt].shown;
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
  if (request_.generate) {
    const Choice& best = choices_[best_choices(0)[0]];
    return out_->send({.body = to_text(generate_json(*request_.generate, finished(best, 0),
                                                     prompts_[0].shown, generate_counts(best)))});
  }
  std::vector<FinishedAnswer> answers;
  for (size_t prompt = 0; prompt < prompts_.size(); ++prompt)
    for (const size_t i : best_choices(prompt))
      answers.push_back(finished(choices_[i], static_cast<int>(answers.size())));
  const std::string& hash = choices_[0].last.variant_hash;
  const std::string fingerprint = hash.empty() ? "" : "dc_" + hash.substr(0, 16);
  out_->send({.body = to_text(response_json(head_, answers, usage(), fingerprint))});
}

}  // namespace deltacome::server
