// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "deltacome/request.h"
#include "server/call_scanner.h"

namespace deltacome::server {

/// A call of a tool, or a piece of one: id and name come first and once, arguments in pieces.
struct ToolCall {
  int index = 0;
  std::string id = {}, name = {};
  std::string arguments = {};  // JSON text
};

/// What a piece of an answer turned out to be.
struct ToolText {
  std::string content = {};
  std::vector<ToolCall> calls = {};
};

/// Finds calls of tools in a growing answer, in the forms that models are trained on:
///   <tool_call>{"name": ..., "arguments": {...}}</tool_call>   Hermes, Qwen; any number, in text
///   {"name": ..., "parameters": {...}}; {...}                  Llama 3; the whole answer
/// What is no call of a known tool stays text. Text that may be the beginning of one is held back.
class ToolCallParser {
 public:
  /// `parallel` false: calls after the first are left out.
  ToolCallParser(const std::vector<ToolForm>& tools, bool parallel);

  ToolText push(std::string_view text);
  ToolText finish();  // what was held back
  int n_calls() const noexcept { return n_calls_; }

 private:
  enum class State { kStart, kContent, kTagged, kAfterTagged, kBare, kAfterBare };

  void push_char(char c, ToolText& out);
  void push_call(char c, ToolText& out);
  void push_content(char c, ToolText& out);
  void begin_call(State state);
  void give_up(ToolText& out);

  std::vector<std::string> tools_;  // their names
  const bool parallel_;
  State state_ = State::kStart;
  std::optional<CallScanner> scanner_;
  std::string held_;  // not known yet to be text or a call
  bool announced_ = false;
  int n_calls_ = 0;
};

/// Holds an answer to calls of `tools`, in the form of those above that `prompt` tells the model to
/// use: a template that writes tools as Hermes and Qwen read them shows the tag.
Constraint tool_call_constraint(std::vector<ToolForm> tools, bool parallel,
                                std::string_view prompt);

/// All of an answer at once.
ToolText find_tool_calls(ToolCallParser& parser, std::string_view text);

}  // namespace deltacome::server
