// SPDX-License-Identifier: Apache-2.0
#include "server/tool_calls.h"

#include <gtest/gtest.h>

namespace deltacome::server {
namespace {

struct Found {
  std::string content, calls;  // calls: name(arguments);...
  bool operator==(const Found&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Found& f) {
  return out << "\"" << f.content << "\" " << f.calls;
}

/// The answer in pieces of `step` bytes.
Found parse(const std::string& text, size_t step, bool parallel = true) {
  ToolCallParser parser({{.name = "add"}, {.name = "get"}}, parallel);
  ToolText all;
  const auto take = [&](const ToolText& part) {
    all.content += part.content;
    for (const ToolCall& call : part.calls) {
      if (!call.name.empty()) {
        EXPECT_TRUE(call.id.starts_with("call_"));
        EXPECT_EQ(call.index, static_cast<int>(all.calls.size()));
        all.calls.push_back(call);
      } else {
        EXPECT_EQ(call.index, all.calls.back().index);
        all.calls.back().arguments += call.arguments;
      }
    }
  };
  for (size_t at = 0; at < text.size(); at += step) take(parser.push(text.substr(at, step)));
  take(parser.finish());
  Found out{.content = all.content, .calls = {}};
  for (const ToolCall& call : all.calls) out.calls += call.name + "(" + call.arguments + ");";
  return out;
}

void expect(const std::string& text, const Found& want, bool parallel = true) {
  for (const size_t step : {size_t{1}, size_t{2}, size_t{3}, size_t{7}, text.size()})
    EXPECT_EQ(parse(text, step, parallel), want) << text << " in pieces of " << step;
}

TEST(ToolCalls, HermesAndQwen) {
  expect(
      "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": [1, "
      "\"}\\\"\"]}}\n</tool_call>",
      {"Let me see.", R"(add({"a": [1, "}\""]});)"});
  expect(
      "<tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call>\n"
      "<tool_call>{\"arguments\":{\"k\":2},\"name\":\"get\"}</tool_call>",
      {"", R"(add({});get({"k":2});)"});
}

TEST(ToolCalls, Llama3) {
  expect(R"({"name": "add", "parameters": {"a": 1}})", {"", R"(add({"a": 1});)"});
  expect(
      R"(<|python_tag|>{"type": "function", "name": "add", "parameters": {"a": "{"}}; {"name": "get", "parameters": {}})",
      {"", R"(add({"a": "{"});get({});)"});
}

TEST(ToolCalls, ArgumentsMayBeTheTextOfAnObject) {
  expect(R"({"name": "add", "arguments": "{\"a\": 1}"})", {"", R"(add({"a": 1});)"});
}

TEST(ToolCalls, WhatIsNoCallStaysText) {
  for (const char* text :
       {"plain text", "a < b and <tool> and <tool_call", "  leading", "{", R"({"answer": 5})",
        R"({"name": "unknown", "parameters": {}})", R"({"name": 5})", "{not json}",
        R"({"name": "ad)", "<tool_call>nonsense</tool_call>", "trailing \n"})
    expect(text, {text, ""});
}

TEST(ToolCalls, AnAnswerThatIsCutInACallHasWhatCameOfIt) {
  expect(R"({"name": "add", "parameters": {"a": 1)", {"", R"(add({"a": 1);)"});
  expect("Now <tool_call>{\"name\": \"add\"", {"Now", "add();"});
}

TEST(ToolCalls, OneOnlyIfSoAsked) {
  expect(
      "<tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call>"
      "<tool_call>{\"name\":\"get\",\"arguments\":{\"k\":2}}</tool_call>",
      {"", "add({});"}, false);
}

TEST(ToolCallConstraint, HasTheFormThatThePromptShows) {
  const std::vector<ToolForm> tools = {{.name = "add", .parameters = "{}"}};
  const Constraint hermes = tool_call_constraint(tools, true, "in <tool_call></tool_call> tags");
  EXPECT_EQ(hermes.kind, Constraint::Kind::kToolCalls);
  EXPECT_EQ(hermes.begin, "<tool_call>\n");
  EXPECT_EQ(hermes.end, "\n</tool_call>");
  EXPECT_EQ(hermes.arguments_key, "arguments");
  EXPECT_GT(hermes.max_calls, 1);
  const Constraint llama = tool_call_constraint(tools, false, "a JSON for a function call");
  EXPECT_EQ(llama.begin, "");
  EXPECT_EQ(llama.arguments_key, "parameters");
  EXPECT_EQ(llama.max_calls, 1);
  ASSERT_EQ(llama.tools.size(), 1U);
  EXPECT_EQ(llama.tools[0].name, "add");
}

}  // namespace
}  // namespace deltacome::server
