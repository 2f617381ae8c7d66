// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "deltacome/request.h"
#include "server/constraint_fields.h"
#include "server/generate_format.h"

namespace deltacome::server {

/// How a conversation's tools may be used.
enum class ToolChoice { kNone, kAuto, kRequired, kNamed };

/// A body of /v1/completions or /v1/chat/completions, checked as far as it can be without a model.
struct AnswerRequest {
  std::string model = {};
  bool chat = false;
  EngineRequest engine = {};  // all but variant, tenant and prompt; n is best_of
  std::optional<int64_t> max_tokens = {};
  int n = 1;
  int best_of = 1;
  bool stream = false;
  bool include_usage = false, continuous_usage = false;
  std::optional<std::string> id = {};
  std::optional<int64_t> keep_prompt_tokens = {};  // truncate_prompt_tokens: the last ones
  std::optional<bool> add_special_tokens = {};
  std::optional<double> timeout_s = {};       // from its arrival; the server's own limit holds too
  std::optional<int> prompt_logprobs = {};    // shown beside the answers
  std::optional<GenerateForm> generate = {};  // a request of LoRAX's: the form of its answer
  bool echoes_logprobs() const { return echo && engine.logprobs && !generate; }

  // Completions.
  using Prompt = std::variant<std::string, std::vector<int32_t>>;
  std::vector<Prompt> prompts = {};
  bool echo = false;
  bool echo_only = false;  // max_tokens 0: one token is computed, and not shown

  // Chats.
  std::string template_context = {};  // JSON text for Engine::chat_prompt_json
  ToolChoice tool_choice = ToolChoice::kNone;
  std::vector<ToolForm> tools = {};  // kNamed: that one
  bool parallel_tool_calls = true;
  bool must_call() const {
    return tool_choice == ToolChoice::kRequired || tool_choice == ToolChoice::kNamed;
  }
};

/// The bytes of a picture at a URL that is no data URI.
using ImageSource = std::function<std::string(const std::string& url)>;
inline constexpr int kMaxFetchedImages = 16;  // of a request

/// Both throw ApiError(400). Unknown fields are ignored, as vLLM does. Without `images` URLs of
/// elsewhere are refused.
AnswerRequest parse_completion(std::string_view body);
AnswerRequest parse_chat(std::string_view body, const ImageSource& images = {});

inline constexpr int kMaxAnswersPerRequest = 128;  // prompts times best_of

/// The fields of both, into `out`.
void read_common(const Fields& fields, AnswerRequest& out);

}  // namespace deltacome::server
