// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "server/answer_run.h"
#include "server/api.h"

namespace deltacome::server {
namespace {

/// What a conversation is for the model. Some templates write the tokens that begin a text, others
/// leave them to the tokenizer.
std::vector<int32_t> encode_chat(const ServedEngine& engine, const std::string& variant,
                                 const std::string& prompt, std::optional<bool> add_special) {
  if (add_special) return engine.encode(variant, prompt, *add_special);
  std::vector<int32_t> tokens = engine.encode(variant, prompt, false);
  const std::vector<int32_t> added = engine.encode(variant, "", true);
  const bool has =
      tokens.size() >= added.size() && std::equal(added.begin(), added.end(), tokens.begin());
  return has ? tokens : engine.encode(variant, prompt, true);
}

PreparedPrompt prepare(const ServedEngine& engine, const AnswerRequest& request,
                       const std::string& variant, size_t i) {
  PreparedPrompt out;
  if (request.chat) {
    const std::string prompt = engine.chat_prompt_json(variant, request.template_context);
    out.tokens = encode_chat(engine, variant, prompt, request.add_special_tokens);
    if (request.must_call())
      out.constraint = tool_call_constraint(request.tools, request.parallel_tool_calls, prompt);
  } else if (const auto* text = std::get_if<std::string>(&request.prompts[i])) {
    out.tokens = engine.encode(variant, *text, request.add_special_tokens.value_or(true));
    if (request.echo) out.text = *text;
  } else {
    out.tokens = std::get<std::vector<int32_t>>(request.prompts[i]);
    if (request.echo) out.text = engine.decode(variant, out.tokens, true);
  }
  if (request.keep_prompt_tokens &&
      static_cast<int64_t>(out.tokens.size()) > *request.keep_prompt_tokens)
    out.tokens.erase(out.tokens.begin(), out.tokens.end() - *request.keep_prompt_tokens);
  out.n_tokens = static_cast<int64_t>(out.tokens.size());
  return out;
}

/// An open run, and the seat that its tenant gets back at its end.
struct OpenAnswer {
  OpenAnswer(ApiContext& context, Tenants::Seat tenants_seat)
      : count(context), seat(std::move(tenants_seat)) {}
  OpenCount count;
  Tenants::Seat seat;
};

Tenants::Seat admit(ApiContext& context, const Call& call) {
  if (context.open_answers >= context.options.max_requests) {
    context.metrics.refused.add({{"reason", "full"}});
    throw ApiError(429, fmt::format("{} requests are being answered, the most that the server "
                                    "takes",
                                    context.options.max_requests))
        .retry_after(1);
  }
  try {
    return context.tenants.admit(*call.caller, Clock::now());
  } catch (const ApiError&) {
    context.metrics.refused.add({{"reason", "tenant"}});
    throw;
  }
}

}  // namespace

AnswerRequest chat_of(const ApiContext& context, std::string_view body) {
  if (context.images.empty()) return parse_chat(body);
  return parse_chat(body, [&](const std::string& url) { return context.images.fetch(url); });
}

void answer(ApiContext& context, Call& call, AnswerRequest request) {
  if (context.options.log_prompts) call.record->body = call.request.body;
  call.request.body = {};  // parsed: its memory goes before the answer comes
  ServedEngine& engine = context.engine;
  const std::string variant = context.names.variant_of(request.model);
  call.record->model = variant.empty() ? context.names.base_name() : variant;
  check_may_use(call, context.names, variant);
  auto open = std::make_shared<OpenAnswer>(context, admit(context, call));

  std::vector<PreparedPrompt> prompts;
  const size_t n_prompts = request.chat ? 1 : request.prompts.size();
  const bool has_text =
      request.chat || request.echo ||
      std::any_of(request.prompts.begin(), request.prompts.end(),
                  [](const auto& prompt) { return std::holds_alternative<std::string>(prompt); });
  context.names.with_variant(variant, [&] {
    prompts.clear();
    for (size_t i = 0; i < n_prompts; ++i) prompts.push_back(prepare(engine, request, variant, i));
    if (!has_text && !context.names.known(variant))  // nothing has asked the engine for it yet
      throw Error(ErrorCode::kNotFound, "unknown");
  });
  EngineRequest& r = request.engine;
  r.variant = variant;
  r.tenant = call.caller->tenant;
  r.weight = call.caller->weight;
  // Without a number of tokens a chat may fill the context, as in vLLM.
  r.max_tokens =
      request.max_tokens.value_or(std::max<int64_t>(1, engine.max_context() - prompts[0].n_tokens));
  if (context.options.request_timeout.count() > 0)
    r.deadline = call.request.received + context.options.request_timeout;
  if (request.timeout_s) {
    const auto asked =
        call.request.received + std::chrono::duration_cast<Clock::duration>(
                                    std::chrono::duration<double>(*request.timeout_s));
    r.deadline = r.deadline ? std::min(*r.deadline, asked) : asked;
  }

  const AnswerHead head{
      .id = (request.chat ? "chatcmpl-" : "cmpl-") + request.id.value_or(call.request.id),
      .model = call.record->model,
      .created = std::time(nullptr),
      .chat = request.chat && !request.generate};
  const Labels labels = {{"variant", head.model}};
  const auto on_end = [&context, open, record = call.record,
                       caller = call.caller](const Usage& usage) {
    record->prompt_tokens = usage.prompt_tokens;
    record->output_tokens = usage.output_tokens;
    context.tenants.charge(*caller, usage.prompt_tokens + usage.output_tokens, Clock::now());
    context.metrics.count_tokens(record->model, caller->tenant, usage.prompt_tokens,
                                 usage.output_tokens);
  };
  const auto run = std::make_shared<AnswerRun>(AnswerRunContext{engine, context.metrics, on_end},
                                               std::move(request), std::move(prompts), head,
                                               call.out, call.request.received);
  try {
    run->start();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kOverloaded) context.metrics.refused.add({{"reason", "queue"}});
    throw;
  }
  context.metrics.variant_requests.add(labels);
}

namespace {

/// vLLM's /tokenize: of a text, or of a conversation.
void tokenize(ApiContext& context, Call& call) {
  const Json json = body_of(call);
  const Fields fields(json);
  const std::string variant = context.names.variant_of(fields.string("model").value_or(""));
  check_may_use(call, context.names, variant);
  const std::optional<bool> add_special = fields.boolean("add_special_tokens");
  std::vector<int32_t> tokens;
  Json strings;
  context.names.with_variant(variant, [&] {
    if (fields.has("messages")) {
      const AnswerRequest chat = chat_of(context, call.request.body);
      tokens =
          encode_chat(context.engine, variant,
                      context.engine.chat_prompt_json(variant, chat.template_context), add_special);
    } else {
      const std::optional<std::string> prompt = fields.string("prompt");
      if (!prompt) throw ApiError(400, "\"prompt\" is missing, expected text", "prompt");
      tokens = context.engine.encode(variant, *prompt, add_special.value_or(true));
    }
    if (fields.boolean("return_token_strs").value_or(false)) {
      strings = Json::array();
      for (const int32_t token : tokens)
        strings.push_back(context.engine.decode(variant, {token}, false));
    }
  });
  send_json(call, {{"count", tokens.size()},
                   {"max_model_len", context.engine.max_context()},
                   {"tokens", tokens},
                   {"token_strs", strings}});
}

void detokenize(ApiContext& context, Call& call) {
  const Json json = body_of(call);
  const Fields fields(json);
  const std::string variant = context.names.variant_of(fields.string("model").value_or(""));
  check_may_use(call, context.names, variant);
  if (!fields.has("tokens"))
    throw ApiError(400, "\"tokens\" is missing, expected an array", "tokens");
  std::string text;
  context.names.with_variant(
      variant, [&] { text = context.engine.decode(variant, fields.tokens("tokens"), false); });
  send_json(call, {{"prompt", text}});
}

}  // namespace

std::vector<Route> answer_routes(ApiContext& context) {
  const auto route = [&](const char* path, std::function<void(Call&)> handler) {
    return Route{.method = "POST",
                 .path = path,
                 .access = Access::kInference,
                 .handler = std::move(handler)};
  };
  return {
      route("/v1/completions",
            [&](Call& call) { answer(context, call, parse_completion(call.request.body)); }),
      route("/v1/chat/completions",
            [&](Call& call) { answer(context, call, chat_of(context, call.request.body)); }),
      route("/v1/embeddings",
            [](Call&) {
              throw ApiError(400,
                             "The model does not support Embeddings API: deltacome serves "
                             "models that generate text");
            }),
      route("/tokenize", [&](Call& call) { tokenize(context, call); }),
      route("/detokenize", [&](Call& call) { detokenize(context, call); }),
  };
}

}  // namespace deltacome::server
