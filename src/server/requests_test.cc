// SPDX-License-Identifier: Apache-2.0
// What bodies say, and how they are refused.
#include <gtest/gtest.h>

#include "server/answer_request.h"

namespace deltacome::server {
namespace {

/// Runs f, and gives the ApiError that it throws.
template <class F>
ApiError error_of(const F& f) {
  try {
    f();
  } catch (const ApiError& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return ApiError(200, "nothing");
}

ApiError completion_error(const std::string& body) {
  return error_of([&] { parse_completion(body); });
}
ApiError chat_error(const std::string& fields) {
  return error_of(
      [&] { parse_chat(R"({"messages": [{"role": "user", "content": "x"}], )" + fields + "}"); });
}

TEST(JsonBody, IsOneObjectOfBoundedShape) {
  EXPECT_EQ(parse_json_object(R"({"b": 1, "a": [{}]})").dump(), R"({"b":1,"a":[{}]})");
  const auto refused = [](const std::string& body, const std::string& part) {
    const ApiError error = error_of([&] { parse_json_object(body); });
    EXPECT_EQ(error.status, 400);
    EXPECT_NE(error.message.find(part), std::string::npos) << error.message;
  };
  refused("", "not valid JSON at byte");
  refused("{} x", "not valid JSON at byte");
  refused("[1]", "expected an object");
  refused(std::string("{}\0x", 4), "zero byte at offset 2");
  refused(R"({"a": 1e999})", "out of range");
  refused("{\"a\": \"\xff\"}", "not valid JSON");
  refused("{\"a\":" + std::string(64, '[') + std::string(64, ']') + "}", "nested more than 64");
  EXPECT_NO_THROW(parse_json_object("{\"a\":" + std::string(63, '[') + std::string(63, ']') + "}"));
  std::string wide = "{\"k0\":0";
  for (int i = 1; i < 1025; ++i) wide += ",\"k" + std::to_string(i) + "\":0";
  refused(wide + "}", "more than 1024 members");
  // Brackets and commas in strings are text.
  EXPECT_NO_THROW(parse_json_object("{\"a\": \"" + std::string(2000, '[') + "\\\",,\"}"));
}

TEST(CompletionBody, GivesEverySamplingField) {
  const AnswerRequest r = parse_completion(R"({
    "model": "m", "prompt": "x", "max_tokens": 5, "min_tokens": 2, "temperature": 0.5,
    "top_p": 0.9, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.2,
    "frequency_penalty": 0.3, "logit_bias": {"7": -3.5}, "seed": -1, "stop": ["a", "b"],
    "stop_token_ids": [9], "include_stop_str_in_output": true, "ignore_eos": true,
    "skip_special_tokens": false, "priority": -2, "cache_salt": "s", "logprobs": 3, "n": 2,
    "best_of": 3, "echo": null, "user": "ignored"})");
  const EngineRequest& e = r.engine;
  EXPECT_EQ(r.model, "m");
  EXPECT_EQ(r.max_tokens, 5);
  EXPECT_EQ(e.min_tokens, 2);
  EXPECT_EQ(e.sampling.temperature, 0.5);
  EXPECT_EQ(e.sampling.top_p, 0.9);
  EXPECT_EQ(e.sampling.top_k, 0);
  EXPECT_EQ(e.sampling.min_p, 0.1);
  EXPECT_EQ(e.sampling.repetition_penalty, 1.1);
  EXPECT_EQ(e.sampling.presence_penalty, 0.2);
  EXPECT_EQ(e.sampling.frequency_penalty, 0.3);
  EXPECT_EQ(e.sampling.logit_bias, (std::vector<std::pair<int32_t, double>>{{7, -3.5}}));
  EXPECT_EQ(e.sampling.seed, ~uint64_t{0});
  EXPECT_EQ(e.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(e.stop_ids, std::vector<int32_t>{9});
  EXPECT_TRUE(e.include_stop);
  EXPECT_TRUE(e.ignore_eos);
  EXPECT_FALSE(e.skip_special_tokens);
  EXPECT_EQ(e.priority, -2);
  EXPECT_EQ(e.cache_salt, "s");
  EXPECT_EQ(e.logprobs, 3);
  EXPECT_EQ(r.n, 2);
  EXPECT_EQ(e.n, 3);
  EXPECT_FALSE(r.echo);
}

TEST(CompletionBody, WholeNumbersMayHaveAFraction) {
  const AnswerRequest r = parse_completion(R"({"prompt": [5.0, 6], "max_tokens": 3.0})");
  EXPECT_EQ(std::get<std::vector<int32_t>>(r.prompts[0]), (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(r.max_tokens, 3);
}

TEST(CompletionBody, RefusalsNameTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "prompt"},
      {R"({"prompt": []})", "prompt"},
      {R"({"prompt": [1, "a"]})", "prompt"},
      {R"({"prompt": [-1]})", "prompt"},
      {R"({"prompt": [1.5]})", "prompt"},
      {R"({"prompt": [1e300]})", "prompt"},
      {R"({"prompt": [3000000000]})", "prompt"},
      {R"({"prompt": "x", "temperature": "hot"})", "temperature"},
      {R"({"prompt": "x", "n": 0})", "n"},
      {R"({"prompt": "x", "n": 1.5})", "n"},
      {R"({"prompt": "x", "n": 3, "best_of": 2})", "best_of"},
      {R"({"prompt": "x", "best_of": 2, "stream": true})", "best_of"},
      {R"({"prompt": "x", "max_tokens": 0})", "max_tokens"},
      {R"({"prompt": "x", "max_tokens": 18446744073709551615})", "max_tokens"},
      {R"({"prompt": "x", "suffix": "y"})", "suffix"},
      {R"({"prompt": "x", "stream": 1})", "stream"},
      {R"({"prompt": "x", "stream_options": {}})", "stream_options"},
      {R"({"prompt": "x", "stop": [1]})", "stop"},
      {R"({"prompt": "x", "logit_bias": {"a": 1}})", "logit_bias"},
      {R"({"prompt": "x", "logprobs": 21})", "logprobs"},
      {R"({"prompt": "x", "prompt_logprobs": 21})", "prompt_logprobs"},
      {R"({"prompt": "x", "timeout_s": 0})", "timeout_s"},
      {R"({"prompt": "x", "timeout_s": 1e300})", "timeout_s"},
      {R"({"prompt": "x", "prompt_logprobs": 1, "stream": true})", "prompt_logprobs"},
      {R"({"prompt": "x", "use_beam_search": true})", "use_beam_search"},
      {R"({"prompt": "x", "request_id": "a b"})", "request_id"},
  };
  for (const auto& [body, param] : cases) {
    const ApiError error = completion_error(body);
    EXPECT_EQ(error.status, 400) << body;
    EXPECT_EQ(error.param, param) << body << ": " << error.message;
  }
  EXPECT_EQ(completion_error(R"({"prompt": "x", "temperature": "hot"})").message,
            "\"temperature\" is \"hot\", expected a number");
  EXPECT_EQ(
      completion_error(R"({"prompt": "x", "stream_options": {"include_usage": true}})").message,
      "Stream options can only be defined when `stream=True`.");
}

TEST(ChatBody, MakesTheTemplatesContext) {
  const AnswerRequest r = parse_chat(R"({
    "messages": [
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": 2}"}}]},
      {"role": "tool", "tool_call_id": "1", "content": "3"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "chat_template_kwargs": {"enable_thinking": false}, "logprobs": true, "top_logprobs": 2})");
  const Json context = Json::parse(r.template_context);
  EXPECT_EQ(context["messages"][0]["content"], "a\nb");
  EXPECT_EQ(context["messages"][1]["content"], "");
  EXPECT_EQ(context["messages"][1]["tool_calls"][0]["function"]["arguments"].dump(),
            R"({"z":1,"a":2})");
  EXPECT_EQ(context["tools"][0]["function"]["name"], "f");
  EXPECT_EQ(context["enable_thinking"], false);
  EXPECT_EQ(context["add_generation_prompt"], true);
  EXPECT_EQ(r.tool_choice, ToolChoice::kAuto);
  ASSERT_EQ(r.tools.size(), 1U);
  EXPECT_EQ(r.tools[0].name, "f");
  EXPECT_EQ(r.tools[0].parameters, R"({"type":"object"})");
  EXPECT_FALSE(r.must_call());
  EXPECT_EQ(r.engine.logprobs, 2);
  EXPECT_FALSE(r.max_tokens);
}

TEST(ChatBody, PicturesComeAsDataUris) {
  const auto chat = [](const std::string& url) {
    return parse_chat(R"({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": ")" +
                      url + R"("}},
        {"type": "text", "text": "What is it?"}]}]})");
  };
  const AnswerRequest r = chat("data:image/png;base64,YWJj");
  EXPECT_EQ(r.engine.images, std::vector<std::string>{"abc"});
  EXPECT_EQ(Json::parse(r.template_context)["messages"][0]["content"], "<image>\nWhat is it?");
  const std::string field = "messages[0].content[0].image_url.url";
  EXPECT_EQ(error_of([&] { chat("http://elsewhere/a.png"); }).param, field);
  EXPECT_EQ(error_of([&] { chat("data:image/png;base64,?"); }).param, field);
}

TEST(ChatBody, PicturesOfElsewhereComeFromWhoGivesThem) {
  const auto chat = [](int n, const ImageSource& images) {
    std::string parts;
    for (int i = 0; i < n; ++i)
      parts += (i > 0 ? "," : "") +
               std::string(R"({"type": "image_url", "image_url": {"url": "http://h/)") +
               std::to_string(i) + R"("}})";
    return parse_chat(R"({"messages": [{"role": "user", "content": [)" + parts + "]}]}", images);
  };
  const ImageSource source = [](const std::string& url) { return "bytes of " + url; };
  EXPECT_EQ(chat(2, source).engine.images,
            (std::vector<std::string>{"bytes of http://h/0", "bytes of http://h/1"}));
  EXPECT_EQ(chat(kMaxFetchedImages, source).engine.images.size(), size_t{kMaxFetchedImages});
  const std::string field = "messages[0].content[16].image_url.url";
  EXPECT_EQ(error_of([&] { chat(kMaxFetchedImages + 1, source); }).param, field);
  EXPECT_EQ(error_of([&] { chat(1, {}); }).param, "messages[0].content[0].image_url.url");
  const ImageSource broken = [](const std::string&) -> std::string {
    throw Error(ErrorCode::kIo, "gone");
  };
  EXPECT_EQ(error_of([&] { chat(1, broken); }).status, 400);
}

TEST(ChatBody, OneToolOrAnyMayHaveToBeCalled) {
  const auto parse = [](const std::string& fields) {
    return parse_chat(R"({"messages": [{"role": "user", "content": "a"}], "tools": [
        {"function": {"name": "f"}}, {"function": {"name": "g"}}], )" +
                      fields + "}");
  };
  const AnswerRequest any = parse(R"("tool_choice": "required")");
  EXPECT_TRUE(any.must_call());
  EXPECT_EQ(any.tools.size(), 2U);
  const AnswerRequest one = parse(R"("tool_choice": {"function": {"name": "g"}})");
  EXPECT_TRUE(one.must_call());
  ASSERT_EQ(one.tools.size(), 1U);
  EXPECT_EQ(one.tools[0].name, "g");
  EXPECT_EQ(Json::parse(one.template_context)["tools"].size(), 2U);
  EXPECT_EQ(error_of([&] { parse(R"("tool_choice": "required", "guided_regex": "a")"); }).param,
            "tool_choice");
}

TEST(ChatBody, RefusalsNameTheField) {
  const auto messages = [](const std::string& m) {
    return error_of([&] { parse_chat("{\"messages\": " + m + "}"); }).param;
  };
  EXPECT_EQ(messages("[]"), "messages");
  EXPECT_EQ(messages("3"), "messages");
  EXPECT_EQ(messages("[3]"), "messages[0]");
  EXPECT_EQ(messages("[{}]"), "messages[0].role");
  EXPECT_EQ(messages(R"([{"role": "user", "content": 3}])"), "messages[0].content");
  EXPECT_EQ(messages(R"([{"role": "user", "content": [{"type": "image_url"}]}])"),
            "messages[0].content[0].image_url.url");
  EXPECT_EQ(messages(R"([{"role": "assistant", "tool_calls": [
              {"function": {"name": "f", "arguments": "{"}}]}])"),
            "messages[0].tool_calls[0].function.arguments");
  EXPECT_EQ(messages(R"([{"role": "tool", "content": "x", "tool_call_id": 3}])"),
            "messages[0].tool_call_id");
  EXPECT_EQ(chat_error(R"("top_logprobs": 2)").param, "top_logprobs");
  EXPECT_EQ(chat_error(R"("tool_choice": "auto")").param, "tool_choice");
  EXPECT_EQ(chat_error(R"("tools": [{"function": {}}])").param, "tools[0].function.name");
  EXPECT_EQ(chat_error(R"("tools": [{"function": {"name": "f"}}],
                          "tool_choice": {"function": {"name": "g"}})")
                .param,
            "tool_choice");
  EXPECT_EQ(chat_error(R"("chat_template": "x")").param, "chat_template");
}

TEST(Constraint, IsReadFromEveryFieldThatAsksForOne) {
  using Kind = Constraint::Kind;
  const auto spec = [](const std::string& fields) {
    const Json json = parse_json_object("{" + fields + "}");
    return read_constraint(Fields(json));
  };
  EXPECT_FALSE(spec(""));
  EXPECT_FALSE(spec(R"("response_format": {"type": "text"})"));
  EXPECT_EQ(spec(R"("response_format": {"type": "json_object"})")->kind, Kind::kJsonObject);
  const std::optional<Constraint> schema =
      spec(R"("response_format": {"type": "json_schema", "json_schema":
      {"name": "n", "schema": {"type": "object", "a": 1}}})");
  EXPECT_EQ(schema->kind, Kind::kJsonSchema);
  EXPECT_EQ(schema->text, R"({"type":"object","a":1})");
  EXPECT_EQ(spec(R"("guided_regex": "a+")")->text, "a+");
  EXPECT_EQ(spec(R"("guided_choice": ["a", "b"])")->choices, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(spec(R"("structured_outputs": {"json": "{\"type\": \"string\"}"})")->text,
            R"({"type":"string"})");
  EXPECT_EQ(error_of([&] { spec(R"("guided_regex": "a", "guided_choice": ["b"])"); }).param,
            "guided_choice");
  EXPECT_EQ(error_of([&] { spec(R"("guided_grammar": "root ::= x")"); }).param, "guided_grammar");
  EXPECT_EQ(error_of([&] { spec(R"("response_format": {"type": "xml"})"); }).param,
            "response_format.type");
}

}  // namespace
}  // namespace deltacome::server
