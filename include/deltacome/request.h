// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "deltacome/error.h"

namespace deltacome {

/// How tokens are chosen. Meaning and order are vLLM's: minimum of tokens, bias, penalties,
/// temperature, min_p, top_k, top_p.
struct SamplingParams {
  double temperature = 1;  // 0 = the first of the largest logits
  int top_k = 0;           // only the k most likely tokens; 0 = off
  double top_p = 1;        // only the most likely tokens that hold this mass; 1 = off
  double min_p = 0;        // only tokens at least this likely, relative to the first; 0 = off
  double repetition_penalty = 1;  // divides positive logits of tokens in prompt or output; 1 = off
  double presence_penalty = 0;    // taken off the logits of tokens in the output
  double frequency_penalty = 0;   // the same, times their number
  std::vector<std::pair<int32_t, double>> logit_bias = {};  // (token, added to its logit)
  std::optional<uint64_t> seed = {};  // equal seeds give equal results; absent: a new one each time
};

/// A function that an answer may call.
struct ToolForm {
  std::string name = {};
  std::string parameters = {};  // the JSON Schema of its arguments; empty: any object
};

/// What the text of an answer has to be: docs/grammar.md. The masks of tokens allow nothing else,
/// so it holds for every answer that ends with kStop but not by a stop text.
struct Constraint {
  enum class Kind {
    kJsonObject,  // any JSON object
    kJsonSchema,  // JSON for which the schema `text` holds
    kRegex,       // what the regular expression `text` matches as a whole
    kChoice,      // one of `choices`
    kToolCalls,   // calls of `tools`, each: begin {"name": ..., arguments_key: {...}} end
  };
  Kind kind = Kind::kJsonObject;
  std::string text = {};
  std::vector<std::string> choices = {};
  // kToolCalls:
  std::vector<ToolForm> tools = {};
  std::string arguments_key = "arguments";
  std::string begin = {}, end = {};  // literal text around each call
  std::string separator = {};        // and between two
  int max_calls = 1;
};

/// What a client asks for. Plain values: it may be made on any thread and kept.
struct EngineRequest {
  std::string variant = {};          // a name that the engine knows; empty = the base
  std::string tenant = {};           // whose share of the engine it uses
  double weight = 1;                 // share of the tenant against others; the last request's holds
  int priority = 0;                  // among the tenant's own requests: lower goes first
  std::vector<int32_t> prompt = {};  // token ids, at least one
  // PNG, JPEG or WebP files (their bytes), for a variant with a vision tower. The prompt has its
  // image token once for each, or already as often as a picture has features.
  std::vector<std::string> images = {};
  SamplingParams sampling = {};
  int n = 1;  // independent answers; they share the prompt's work
  int64_t max_tokens = 16;
  int64_t min_tokens = 0;              // no stop before
  std::vector<std::string> stop = {};  // texts that end an answer; need a tokenizer
  bool include_stop = false;           // the text that ended it is part of the answer
  std::vector<int32_t> stop_ids = {};  // besides the variant's end-of-sequence ids
  bool ignore_eos = false;             // those do not end it
  bool skip_special_tokens = true;
  std::optional<Constraint> constraint = {};  // needs a tokenizer
  std::optional<int> logprobs = {};  // log probability of each token, and of this many likeliest
  std::optional<int> prompt_logprobs = {};  // the same for the prompt; it is then computed whole
  std::string cache_salt = {};  // requests share prefixes only with those of the same salt
  std::string extra_hash = {};  // content beside the tokens that the prompt's meaning depends on
  std::optional<std::chrono::steady_clock::time_point> deadline = {};  // ends it, with kDeadline
};

enum class FinishReason {
  kNone,    // goes on
  kStop,    // an end-of-sequence id, a stop id, a stop text, or the constraint's text is complete
  kLength,  // max_tokens, or the end of the model's context
  kCancelled,  // by cancel(), or the engine stopped
  kDeadline,
  kError,  // see TokenEvent::error
};

struct TokenLogprob {
  int32_t token = 0;
  double logprob = 0;  // natural logarithm, of the model's distribution before sampling parameters
};

/// Of one place in a text: the token that is there, and the likeliest ones.
struct Logprobs {
  double chosen = 0;
  int64_t rank = 1;                    // of it: 1 for the likeliest
  std::vector<TokenLogprob> top = {};  // likeliest first
};

/// What happened to one answer. Events of an answer come in order; the last has a finish reason.
struct TokenEvent {
  uint64_t request = 0;
  int choice = 0;                               // which of n
  std::optional<int32_t> token = {};            // absent in events that only end an answer
  std::string text = {};                        // that is final now; whole UTF-8 characters
  std::optional<double> logprob = {};           // of `token`
  std::vector<TokenLogprob> top_logprobs = {};  // likeliest first
  // Of the prompt's tokens but the first; in the first event of choice 0, if they were asked for.
  std::vector<Logprobs> prompt_logprobs = {};
  FinishReason finish = FinishReason::kNone;
  std::string stop_text = {};  // kStop: the stop text that was found, or
  std::optional<int32_t> stop_id =
      {};                           // the token; an end-of-sequence id is not part of the answer
  std::optional<Error> error = {};  // kError
  // Filled in at the last event of an answer:
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, taken from the prefix cache at its first admission
  int64_t output_tokens = 0;
  double queue_s = 0;             // seconds from its arrival to its first step,
  double prefill_s = 0;           // from there to its first token,
  double decode_s = 0;            // and to its end
  std::string variant_hash = {};  // content of the variant that gave the answer; empty = base
};

/// One whole answer.
struct Answer {
  std::vector<int32_t> tokens = {};
  std::string text = {};
  std::vector<TokenEvent> events = {};
  FinishReason finish = FinishReason::kNone;
};

}  // namespace deltacome
