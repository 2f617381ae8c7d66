// SPDX-License-Identifier: Apache-2.0
#include "server/generate_format.h"

namespace deltacome::server {
namespace {

Json token_json(const ShownToken& token) {
  Json out = {{"id", token.id},
              {"text", token.text},
              {"logprob", finite_logprob(token.logprob.value_or(0))},
              {"special", token.special}};
  if (token.top.empty()) return out;
  out["alternative_tokens"] = Json::array();
  for (const TokenGuess& each : token.top)
    out["alternative_tokens"].push_back(
        {{"id", each.token}, {"text", each.text}, {"logprob", finite_logprob(each.logprob)}});
  return out;
}

Json end_json(const FinishedAnswer& answer, const GenerateCounts& counts) {
  return {{"finish_reason", generate_finish(answer)},
          {"prompt_tokens", counts.prompt_tokens},
          {"generated_tokens", counts.generated_tokens},
          {"seed", counts.seed ? Json(*counts.seed) : Json()}};
}

int generate_status(int status) noexcept {
  return status == 400 ? 422 : status;
}

const char* error_type(int status) noexcept {
  switch (status) {
    case 400:
    case 404:
      return "validation";
    case 429:
    case 503:
      return "overloaded";
    case 504:
      return "incomplete_generation";
    default:
      return "generation";
  }
}

Json error_json(const ApiError& error) {
  return {{"error", error.message}, {"error_type", error_type(error.status)}};
}

}  // namespace

std::string_view generate_finish(const FinishedAnswer& answer) noexcept {
  if (answer.finish_reason == "length") return "length";
  return answer.stop_reason.is_null() ? "eos_token" : "stop_sequence";
}

Json generate_json(const GenerateForm& form, const FinishedAnswer& answer,
                   const std::vector<ShownToken>& prompt, const GenerateCounts& counts) {
  Json out = {{"generated_text", answer.text}};
  if (form.details) {
    Json details = end_json(answer, counts);
    details["prefill"] = Json::array();
    for (const ShownToken& token : prompt)
      details["prefill"].push_back(
          {{"id", token.id},
           {"text", token.text},
           {"logprob", token.logprob ? Json(finite_logprob(*token.logprob)) : Json()}});
    details["tokens"] = Json::array();
    if (answer.logprobs)
      for (const ShownToken& token : *answer.logprobs)
        details["tokens"].push_back(token_json(token));
    out["details"] = std::move(details);
  }
  return form.list ? Json::array({std::move(out)}) : out;
}

void append_generate_event(std::string& out, const ShownToken& token, const FinishedAnswer* answer,
                           const GenerateCounts& counts) {
  const Json event = {{"token", token_json(token)},
                      {"generated_text", answer == nullptr ? Json() : Json(answer->text)},
                      {"details", answer == nullptr ? Json() : end_json(*answer, counts)}};
  out += "data: " + to_text(event) + "\n\n";
}

HttpResponse generate_error_response(const ApiError& error) {
  HttpResponse out = error_response(error);
  out.status = generate_status(error.status);
  out.body = to_text(error_json(error));
  return out;
}

void append_generate_error(std::string& out, const ApiError& error) {
  out += "data: " + to_text(error_json(error)) + "\n\n";
}

}  // namespace deltacome::server
