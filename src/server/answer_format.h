// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "deltacome/request.h"
#include "server/json_fields.h"
#include "server/tool_calls.h"

namespace deltacome::server {

/// A token that could be in a place.
struct TokenGuess {
  int32_t token = 0;
  double logprob = 0;
  int64_t rank = 1;  // 1 for the likeliest
  std::string text = {};
};

/// A token with its log probability, and those of the likeliest in its place.
struct ShownToken {
  int32_t id = 0;
  std::string text = {};
  std::optional<double> logprob = {};  // the first token of a text has none
  std::vector<TokenGuess> top = {};    // likeliest first
  bool special = false;
};

/// Of a place in a prompt: the token itself, then the likeliest; none for the first.
using PromptToken = std::vector<TokenGuess>;

/// What a response says once.
struct AnswerHead {
  std::string id, model;
  int64_t created = 0;  // Unix seconds
  bool chat = false;
};

struct Usage {
  int64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
};

/// One whole answer.
struct FinishedAnswer {
  int index = 0;
  std::string text = {};
  std::vector<ToolCall> tool_calls = {};
  std::optional<std::vector<ShownToken>> logprobs = {};
  std::string finish_reason = {};
  Json stop_reason = {};                     // the stop text or the token id that ended it, or null
  std::optional<Json> prompt_logprobs = {};  // prompt_logprobs_json(), if they were asked for
};

Json usage_json(const Usage& usage);
/// Whole calls, or with `pieces` those of a delta: with an index, and id and name only if known.
Json tool_calls_json(const std::vector<ToolCall>& calls, bool pieces);
/// OpenAI's response object.
Json response_json(const AnswerHead& head, const std::vector<FinishedAnswer>& answers,
                   const Usage& usage, const std::string& fingerprint);

/// Log probabilities in the form of chats, {"content": [...]}, or of completions, where the first
/// token stands at character `text_offset`.
Json logprobs_json(bool chat, const std::vector<ShownToken>& tokens, int64_t text_offset);
/// vLLM's form: for each token of a prompt but the first, {id: {"logprob", "rank",
/// "decoded_token"}} of itself and the likeliest; null for the first.
Json prompt_logprobs_json(const std::vector<PromptToken>& tokens);
int64_t n_characters(std::string_view text);
/// JSON has no infinity: vLLM's stand-in.
double finite_logprob(double logprob) noexcept;

/// A piece of a streamed answer.
struct Chunk {
  int index = 0;
  std::string_view text = {};
  bool first = false;              // chats: names the role
  const Json* tool_calls = {};     // chats: "tool_calls" of the delta, or null
  const Json* logprobs = {};       // or null
  std::string_view finish_reason;  // empty: goes on
  const Json* stop_reason = {};    // at the end
  const Json* usage = {};          // with continuous_usage_stats
};

/// Writes server-sent events. One of a stream.
class ChunkWriter {
 public:
  ChunkWriter(const AnswerHead& head, bool null_usage);
  /// Appends one event.
  void append(std::string& out, const Chunk& chunk) const;
  void append_usage(std::string& out, const Usage& usage) const;

 private:
  bool chat_, null_usage_;
  std::string begin_;  // up to the choices
};

/// An event with an error, in place of the rest of a stream.
void append_error_event(std::string& out, const ApiError& error);
inline constexpr std::string_view kDoneEvent = "data: [DONE]\n\n";

/// "stop", "length", ...; empty for one that goes on.
std::string_view finish_name(FinishReason reason) noexcept;

}  // namespace deltacome::server
