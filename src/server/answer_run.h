// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/answer_format.h"
#include "server/answer_request.h"
#include "server/http.h"
#include "server/served_engine.h"
#include "server/server_metrics.h"
#include "server/token_texts.h"

namespace deltacome::server {

/// One prompt that has become tokens.
struct PreparedPrompt {
  std::vector<int32_t> tokens;
  std::string text = {};               // what `echo` puts before the answer; empty without
  bool known = false;                  // its log probabilities, if they were asked for
  std::vector<ShownToken> shown = {};  // `text` with them
  std::optional<Json> logprobs = {};   // what `prompt_logprobs` shows
  int64_t n_tokens = 0;
  std::optional<Constraint> constraint = {};  // that the form of its tools asks for
};

/// What an AnswerRun needs of its surroundings.
struct AnswerRunContext {
  ServedEngine& engine;
  ServerMetrics& metrics;
  /// Called once, with the tokens of the whole request, when it has ended in any way.
  std::function<void(const Usage&)> on_end = {};
};

/// The life of one request for answers: submits it, turns events into a response or a stream, and
/// cancels it if the client goes. Its state is touched on the connection's thread only.
class AnswerRun : public std::enable_shared_from_this<AnswerRun> {
 public:
  AnswerRun(AnswerRunContext context, AnswerRequest request, std::vector<PreparedPrompt> prompts,
            AnswerHead head, std::shared_ptr<ResponseStream> out, Clock::time_point received);

  /// From the thread that prepared it. Throws what submit() throws; nothing runs then.
  void start();

 private:
  struct Choice {
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

  void set_ids(std::vector<uint64_t> ids);
  void on_event(size_t prompt, const TokenEvent& event);
  void show_prompt(PreparedPrompt& prompt, const std::vector<Logprobs>& logprobs) const;
  void measure(Choice& choice, const TokenEvent& event);
  void stream_generate(Choice& choice, const TokenEvent& event);
  ShownToken shown_token(const TokenEvent& event) const;
  GenerateCounts generate_counts(const Choice& choice) const;
  void begin_stream();
  void stream_event(Choice& choice, const TokenEvent& event);
  void finish();
  void send_response();
  std::vector<size_t> best_choices(size_t prompt) const;
  FinishedAnswer finished(const Choice& choice, int index) const;
  Usage usage() const;
  Json stop_reason(const TokenEvent& event) const;
  void fail(const ApiError& error);
  void cancel();

  const AnswerRunContext context_;
  AnswerRequest request_;
  std::vector<PreparedPrompt> prompts_;
  const AnswerHead head_;
  const TokenTexts texts_;
  const ChunkWriter writer_;
  const std::shared_ptr<ResponseStream> out_;
  const Clock::time_point received_;
  std::vector<uint64_t> ids_;
  std::vector<Choice> choices_;  // of all prompts, best_of each
  size_t n_open_;
  std::string buffer_;
  bool begun_ = false, over_ = false, told_ = false;
};

}  // namespace deltacome::server
