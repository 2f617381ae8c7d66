// SPDX-License-Identifier: Apache-2.0
#include "server/generate_request.h"

#include <fmt/format.h>

#include <limits>

namespace deltacome::server {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int64_t>::max();

void refuse_unsupported(const Fields& p) {
  if (p.number("typical_p").value_or(1) < 1)
    throw ApiError(400, "\"parameters.typical_p\" is not supported", "typical_p");
  if (p.boolean("watermark").value_or(false))
    throw ApiError(400, "\"parameters.watermark\" is not supported", "watermark");
  for (const char* name : {"merged_adapters", "adapter_parameters"})
    if (p.has(name))
      throw ApiError(
          400, fmt::format("\"parameters.{}\" is not supported, expected one \"adapter_id\"", name),
          name);
}

/// Greedy unless a field asks for sampling, as there.
void read_sampling(const Fields& p, SamplingParams& out) {
  const auto temperature = p.number("temperature");
  const auto top_p = p.number("top_p");
  const auto top_k = p.integer("top_k", 0, INT32_MAX);
  const bool samples = p.boolean("do_sample").value_or(false) || temperature.value_or(1) != 1 ||
                       top_p.value_or(1) < 1 || top_k.value_or(0) > 0;
  out.temperature = samples ? temperature.value_or(1) : 0;
  out.top_p = top_p.value_or(1);
  out.top_k = static_cast<int>(top_k.value_or(0));
  out.repetition_penalty = p.number("repetition_penalty").value_or(1);
  out.presence_penalty = p.number("presence_penalty").value_or(0);
  out.frequency_penalty = p.number("frequency_penalty").value_or(0);
  if (const auto seed = p.integer("seed", 0, kMaxInt)) out.seed = static_cast<uint64_t>(*seed);
}

std::optional<Constraint> read_form(const Fields& p) {
  const Json* format = p.object("response_format");
  if (format == nullptr) return std::nullopt;
  const Fields inner(*format, "parameters.response_format");
  const std::string type = inner.need_string("type");
  if (type != "json_object" && type != "json_schema")
    inner.fail("type", *inner.find("type"), "\"json_object\"");
  const Json* schema = inner.object("schema");
  if (schema == nullptr) return Constraint{.kind = Constraint::Kind::kJsonObject};
  return Constraint{.kind = Constraint::Kind::kJsonSchema, .text = to_text(*schema)};
}

}  // namespace

AnswerRequest parse_generate(std::string_view body, GenerateRoute route) {
  const Json json = parse_json_object(body);
  const Fields fields(json);
  const Json none = Json::object();
  const Json* parameters = fields.object("parameters");
  const Fields p(parameters == nullptr ? none : *parameters, "parameters");
  refuse_unsupported(p);

  AnswerRequest out;
  const std::string inputs = fields.need_string("inputs");
  out.model = p.string("adapter_id").value_or("");
  for (const char* name : {"adapter_source", "api_token"}) (void)p.string(name);
  out.stream = route == GenerateRoute::kStream ||
               (route == GenerateRoute::kEither && fields.boolean("stream").value_or(false));
  read_sampling(p, out.engine.sampling);
  out.engine.stop = p.strings("stop");
  out.engine.ignore_eos = p.boolean("ignore_eos_token").value_or(false);
  out.engine.constraint = read_form(p);
  out.max_tokens = p.integer("max_new_tokens", 1, kMaxInt);
  out.keep_prompt_tokens = p.integer("truncate", 1, INT32_MAX);
  out.best_of = static_cast<int>(p.integer("best_of", 1, kMaxAnswersPerRequest).value_or(1));
  if (out.best_of > 1 && out.stream)
    throw ApiError(400, "`best_of` != 1 is not supported when streaming tokens", "best_of");
  out.engine.n = out.best_of;
  out.generate = GenerateForm{.details = p.boolean("details").value_or(false),
                              .prefill = p.boolean("decoder_input_details").value_or(false),
                              .list = route == GenerateRoute::kEither};
  const auto k = p.integer("return_k_alternatives", 1, 20);
  if (out.stream || out.generate->details || k)
    out.engine.logprobs = static_cast<int>(k.value_or(0));
  if (out.generate->prefill && out.generate->details) out.engine.prompt_logprobs = 0;

  if (p.boolean("apply_chat_template").value_or(false)) {
    out.chat = true;
    const Json message = {{"role", "user"}, {"content", inputs}};
    out.template_context = to_text({{"messages", Json::array({message})},
                                    {"tools", nullptr},
                                    {"documents", nullptr},
                                    {"add_generation_prompt", true}});
  } else {
    out.prompts = {inputs};
    out.echo = p.boolean("return_full_text").value_or(false);
  }
  return out;
}

}  // namespace deltacome::server
