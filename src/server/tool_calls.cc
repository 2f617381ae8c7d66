// SPDX-License-Identifier: Apache-2.0
#include "server/tool_calls.h"

#include <fmt/format.h>

#include <algorithm>

#include "server/http.h"

namespace deltacome::server {
namespace {

constexpr std::string_view kOpenTag = "<tool_call>", kCloseTag = "</tool_call>";
constexpr std::string_view kPythonTag = "<|python_tag|>";
constexpr int kMaxForcedCalls = 8;  // a model without an end in sight stops here

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/// From the first character of `text` that is not white space.
std::string_view skip_space(std::string_view text) {
  const size_t at = text.find_first_not_of(" \n\t\r");
  return at == std::string_view::npos ? std::string_view() : text.substr(at);
}

}  // namespace

ToolCallParser::ToolCallParser(const std::vector<ToolForm>& tools, bool parallel)
    : parallel_(parallel) {
  for (const ToolForm& tool : tools) tools_.push_back(tool.name);
}

ToolText ToolCallParser::push(std::string_view text) {
  ToolText out;
  for (const char c : text) push_char(c, out);
  if (scanner_ && announced_) {
    const std::string arguments = scanner_->take_arguments();
    if (!arguments.empty() && (parallel_ || n_calls_ == 1))
      out.calls.push_back({.index = n_calls_ - 1, .arguments = arguments});
  }
  return out;
}

void ToolCallParser::push_char(char c, ToolText& out) {
  switch (state_) {
    case State::kStart: {
      held_ += c;
      const std::string_view text = skip_space(held_);
      if (text == "{") {
        begin_call(State::kBare);
        scanner_->push('{');
      } else if (text == kPythonTag) {
        held_.clear();
      } else if (!kPythonTag.starts_with(text)) {
        state_ = State::kContent;
        const std::string text_so_far = std::exchange(held_, {});
        for (const char each : text_so_far) push_content(each, out);
      }
      return;
    }
    case State::kContent:
      return push_content(c, out);
    case State::kTagged:
    case State::kBare:
      return push_call(c, out);
    case State::kAfterTagged:
      held_ += c;
      if (held_.ends_with(kCloseTag)) {
        held_.clear();
        state_ = State::kContent;
      }
      return;
    case State::kAfterBare:
      held_ += c;
      if (is_space(c) || c == ';') return;
      if (c == '{') {
        begin_call(State::kBare);
        scanner_->push('{');
      } else {
        state_ = State::kContent;
      }
  }
}

/// Text, of which the end may be white space before a tag, and the beginning of a tag.
void ToolCallParser::push_content(char c, ToolText& out) {
  held_ += c;
  if (held_.ends_with(kOpenTag)) return begin_call(State::kTagged);
  size_t keep = std::min(held_.size(), kOpenTag.size() - 1);
  while (keep > 0 && !kOpenTag.starts_with(std::string_view(held_).substr(held_.size() - keep)))
    --keep;
  while (keep < held_.size() && is_space(held_[held_.size() - keep - 1])) ++keep;
  out.content.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
}

void ToolCallParser::begin_call(State state) {
  state_ = state;
  scanner_.emplace(tools_);
  announced_ = false;
}

void ToolCallParser::push_call(char c, ToolText& out) {
  held_ += c;
  const CallScanner::Status status = scanner_->push(c);
  const bool wanted = parallel_ || n_calls_ == 0 || (announced_ && n_calls_ == 1);
  if (!announced_ && !scanner_->name().empty() && status != CallScanner::Status::kNoCall) {
    announced_ = true;
    ++n_calls_;
    if (wanted)
      out.calls.push_back(
          {.index = n_calls_ - 1, .id = "call_" + new_id(), .name = scanner_->name()});
  }
  if (status == CallScanner::Status::kOpen) return;
  if (announced_) {
    const std::string rest = scanner_->take_arguments();
    if (!rest.empty() && wanted) out.calls.push_back({.index = n_calls_ - 1, .arguments = rest});
    state_ = state_ == State::kTagged ? State::kAfterTagged : State::kAfterBare;
    scanner_.reset();
    held_.clear();
  } else {
    give_up(out);
  }
}

/// It was text after all.
void ToolCallParser::give_up(ToolText& out) {
  scanner_.reset();
  state_ = State::kContent;
  out.content += std::exchange(held_, {});
}

ToolText ToolCallParser::finish() {
  ToolText out;
  const bool after_call = state_ == State::kAfterTagged || state_ == State::kAfterBare;
  const bool cut_call = scanner_ && announced_;
  if (!after_call && !cut_call) out.content = held_;
  held_.clear();
  return out;
}

Constraint tool_call_constraint(std::vector<ToolForm> tools, bool parallel,
                                std::string_view prompt) {
  const bool tagged = prompt.find(kOpenTag) != std::string_view::npos;
  return {.kind = Constraint::Kind::kToolCalls,
          .tools = std::move(tools),
          .arguments_key = tagged ? "arguments" : "parameters",
          .begin = tagged ? fmt::format("{}\n", kOpenTag) : "",
          .end = tagged ? fmt::format("\n{}", kCloseTag) : "",
          .separator = tagged ? "\n" : "; ",
          .max_calls = parallel ? kMaxForcedCalls : 1};
}

ToolText find_tool_calls(ToolCallParser& parser, std::string_view text) {
  ToolText out;
  for (const ToolText& part : {parser.push(text), parser.finish()}) {
    out.content += part.content;
    for (const ToolCall& call : part.calls) {
      if (out.calls.empty() || out.calls.back().index != call.index) {
        out.calls.push_back(call);
      } else {
        out.calls.back().arguments += call.arguments;
      }
    }
  }
  for (ToolCall& call : out.calls)
    if (call.arguments.empty()) call.arguments = "{}";
  return out;
}

}  // namespace deltacome::server
