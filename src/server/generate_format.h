// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "server/answer_format.h"

namespace deltacome::server {

// Text Generation Inference's and LoRAX's own form of answers: /generate and /generate_stream.

/// What a request asks for beside the answer's text.
struct GenerateForm {
  bool details = false;
  bool prefill = false;  // the prompt's tokens among the details
  bool list = false;     // the response is in an array, as that of POST /
};

/// "length", "eos_token" or "stop_sequence".
std::string_view generate_finish(const FinishedAnswer& answer) noexcept;

/// Counts at the end of an answer.
struct GenerateCounts {
  int64_t prompt_tokens = 0, generated_tokens = 0;
  std::optional<uint64_t> seed = {};
};

/// {"generated_text", "details"}. `answer.logprobs` are its tokens.
Json generate_json(const GenerateForm& form, const FinishedAnswer& answer,
                   const std::vector<ShownToken>& prompt, const GenerateCounts& counts);

/// Appends an event with one token; at the end with the whole `answer` too.
void append_generate_event(std::string& out, const ShownToken& token, const FinishedAnswer* answer,
                           const GenerateCounts& counts);

/// {"error", "error_type"}. What is wrong with a request has the status 422.
HttpResponse generate_error_response(const ApiError& error);
void append_generate_error(std::string& out, const ApiError& error);

}  // namespace deltacome::server
