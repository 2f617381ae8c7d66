// SPDX-License-Identifier: Apache-2.0
// The fields that completions and chats share, and completions.
#include "server/answer_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "server/http.h"

namespace deltacome::server {
namespace {

constexpr double kMaxTimeoutS = 24 * 3600;
constexpr int64_t kMaxInt = std::numeric_limits<int64_t>::max();

void read_logit_bias(const Fields& fields, SamplingParams& out) {
  const Json* bias = fields.object("logit_bias");
  if (bias == nullptr) return;
  for (const auto& [key, value] : bias->items()) {
    int32_t token = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc() || end != key.data() + key.size() || token < 0)
      throw ApiError(
          400,
          fmt::format("\"logit_bias\" has the key {}, expected token ids", describe(Json(key))),
          "logit_bias");
    if (!value.is_number()) fields.fail("logit_bias", value, "numbers");
    out.logit_bias.emplace_back(token, value.get<double>());
  }
}

void read_sampling(const Fields& fields, EngineRequest& out) {
  SamplingParams& s = out.sampling;
  s.temperature = fields.number("temperature").value_or(s.temperature);
  s.top_p = fields.number("top_p").value_or(s.top_p);
  s.min_p = fields.number("min_p").value_or(s.min_p);
  s.top_k = static_cast<int>(fields.integer("top_k", -1, INT32_MAX).value_or(0));
  if (s.top_k == -1) s.top_k = 0;  // vLLM's word for "off"
  s.repetition_penalty = fields.number("repetition_penalty").value_or(s.repetition_penalty);
  s.presence_penalty = fields.number("presence_penalty").value_or(s.presence_penalty);
  s.frequency_penalty = fields.number("frequency_penalty").value_or(s.frequency_penalty);
  if (const auto seed = fields.integer("seed", -kMaxInt - 1, kMaxInt))
    s.seed = static_cast<uint64_t>(*seed);
  read_logit_bias(fields, s);
  out.stop = fields.strings("stop");
  out.stop_ids = fields.tokens("stop_token_ids");
  out.include_stop = fields.boolean("include_stop_str_in_output").value_or(false);
  out.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  out.skip_special_tokens = fields.boolean("skip_special_tokens").value_or(true);
  out.min_tokens = fields.integer("min_tokens", 0, kMaxInt).value_or(0);
  out.priority = static_cast<int>(fields.integer("priority", -1000, 1000).value_or(0));
  out.cache_salt = fields.string("cache_salt").value_or("");
}

void read_stream(const Fields& fields, AnswerRequest& out) {
  out.stream = fields.boolean("stream").value_or(false);
  const Json* options = fields.object("stream_options");
  if (options == nullptr) return;
  if (!out.stream)
    throw ApiError(400, "Stream options can only be defined when `stream=True`.", "stream_options");
  const Fields inner(*options, "stream_options");
  out.include_usage = inner.boolean("include_usage").value_or(false);
  out.continuous_usage = inner.boolean("continuous_usage_stats").value_or(false);
}

void read_counts(const Fields& fields, AnswerRequest& out) {
  out.n = static_cast<int>(fields.integer("n", 1, kMaxAnswersPerRequest).value_or(1));
  out.best_of =
      static_cast<int>(fields.integer("best_of", out.n, kMaxAnswersPerRequest).value_or(out.n));
  if (out.best_of > out.n && out.stream)
    throw ApiError(400,
                   "\"best_of\" is larger than \"n\", expected no \"stream\" beside it: the "
                   "best answers are known at the end",
                   "best_of");
  out.engine.n = out.best_of;
}

void read_prompt_logprobs(const Fields& fields, AnswerRequest& out) {
  const auto k = fields.integer("prompt_logprobs", 0, 20);
  if (!k) return;
  if (out.stream)
    throw ApiError(400, "`prompt_logprobs` are not available when `stream=True`.",
                   "prompt_logprobs");
  out.prompt_logprobs = static_cast<int>(*k);
  out.engine.prompt_logprobs = out.prompt_logprobs;
}

void refuse_unsupported(const Fields& fields) {
  if (fields.boolean("use_beam_search").value_or(false))
    throw ApiError(400, "\"use_beam_search\" is not supported", "use_beam_search");
  for (const char* name :
       {"prompt_embeds", "logits_processors", "kv_transfer_params", "mm_processor_kwargs"}) {
    if (fields.has(name)) throw ApiError(400, fmt::format("\"{}\" is not supported", name), name);
  }
}

}  // namespace

void read_common(const Fields& fields, AnswerRequest& out) {
  out.model = fields.string("model").value_or("");
  refuse_unsupported(fields);
  read_sampling(fields, out.engine);
  read_stream(fields, out);
  read_counts(fields, out);
  read_prompt_logprobs(fields, out);
  out.engine.constraint = read_constraint(fields);
  out.keep_prompt_tokens = fields.integer("truncate_prompt_tokens", 1, INT32_MAX);
  out.timeout_s = fields.number("timeout_s");
  if (out.timeout_s && !(*out.timeout_s > 0 && *out.timeout_s <= kMaxTimeoutS))
    fields.fail("timeout_s", *fields.find("timeout_s"), "more than 0, at most a day");
  out.add_special_tokens = fields.boolean("add_special_tokens");
  out.id = fields.string("request_id");
  if (out.id && !is_request_id(*out.id))
    fields.fail("request_id", *fields.find("request_id"),
                "up to 128 letters, digits, '-', '_', '.' and ':'");
  const int64_t least = out.echo ? 0 : 1;
  out.max_tokens = fields.integer("max_completion_tokens", least, kMaxInt);
  if (!out.max_tokens) out.max_tokens = fields.integer("max_tokens", least, kMaxInt);
  if (out.max_tokens == 0) {
    out.echo_only = true;
    out.max_tokens = 1;
  }
}

namespace {

std::vector<AnswerRequest::Prompt> read_prompts(const Fields& fields) {
  const Json* prompt = fields.find("prompt");
  if (prompt == nullptr)
    throw ApiError(400, "\"prompt\" is missing, expected text, token ids, or an array of them",
                   "prompt");
  if (prompt->is_string()) return {prompt->get<std::string>()};
  if (!prompt->is_array() || prompt->empty())
    fields.fail("prompt", *prompt, "text, token ids, or an array of them");
  if (prompt->front().is_number()) return {fields.tokens("prompt")};
  std::vector<AnswerRequest::Prompt> out;
  for (const Json& each : *prompt) {
    if (each.is_string()) {
      out.emplace_back(each.get<std::string>());
    } else if (each.is_array()) {
      std::vector<int32_t> tokens;
      for (const Json& token : each) tokens.push_back(token_of(token, "prompt"));
      out.emplace_back(std::move(tokens));
    } else {
      fields.fail("prompt", each, "text, token ids, or an array of them");
    }
  }
  return out;
}

}  // namespace

AnswerRequest parse_completion(std::string_view body) {
  const Json json = parse_json_object(body);
  const Fields fields(json);
  AnswerRequest out;
  out.echo = fields.boolean("echo").value_or(false);
  read_common(fields, out);
  if (!fields.string("suffix").value_or("").empty())
    throw ApiError(400, "\"suffix\" is not supported: the models complete text at its end only",
                   "suffix");
  out.prompts = read_prompts(fields);
  if (static_cast<int64_t>(out.prompts.size()) * out.best_of > kMaxAnswersPerRequest)
    throw ApiError(400,
                   fmt::format("{} prompts with {} answers each, expected at most {} answers",
                               out.prompts.size(), out.best_of, kMaxAnswersPerRequest),
                   "prompt");
  if (const auto k = fields.integer("logprobs", 0, 20)) out.engine.logprobs = static_cast<int>(*k);
  if (out.echoes_logprobs())
    out.engine.prompt_logprobs = std::max(*out.engine.logprobs, out.prompt_logprobs.value_or(0));
  if (!out.max_tokens) out.max_tokens = 16;
  return out;
}

}  // namespace deltacome::server
