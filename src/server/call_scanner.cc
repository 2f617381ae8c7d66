// SPDX-License-Identifier: Apache-2.0
#include "server/call_scanner.h"

#include <algorithm>
#include <string_view>

#include <nlohmann/json.hpp>

namespace deltacome::server {
namespace {

constexpr int kMaxDepth = 64;

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

}  // namespace

CallScanner::Status CallScanner::push(char c) {
  switch (state_) {
    case State::kBegin:
      if (is_space(c)) return Status::kOpen;
      state_ = State::kKeyOrEnd;
      return c == '{' ? Status::kOpen : Status::kNoCall;
    case State::kKeyOrEnd:
      if (is_space(c)) return Status::kOpen;
      state_ = State::kKey;
      key_ = c;
      return c == '"' ? Status::kOpen : Status::kNoCall;
    case State::kKey:
      return push_key(c);
    case State::kColon:
      if (is_space(c)) return Status::kOpen;
      state_ = State::kValueBegin;
      return c == ':' ? Status::kOpen : Status::kNoCall;
    case State::kValueBegin:
      if (is_space(c)) return Status::kOpen;
      state_ = State::kValue;
      return push_value(c);
    case State::kValue:
      return push_value(c);
    case State::kAfterValue:
      return push_after_value(c);
  }
  return Status::kNoCall;
}

CallScanner::Status CallScanner::push_key(char c) {
  key_ += c;
  if (c != '"') return key_.size() <= 16 && c != '\\' ? Status::kOpen : Status::kNoCall;
  state_ = State::kColon;
  static constexpr std::string_view kKnown[] = {"\"name\"", "\"arguments\"", "\"parameters\"",
                                                "\"type\"", "\"id\""};
  return std::find(std::begin(kKnown), std::end(kKnown), key_) != std::end(kKnown)
             ? Status::kOpen
             : Status::kNoCall;
}

CallScanner::Status CallScanner::push_value(char c) {
  const bool streams = is_arguments() && (depth_ > 0 || c == '{');
  if (!in_string_ && depth_ == 0 && !value_.empty() && (c == ',' || c == '}' || is_space(c))) {
    const Status ended = end_value();  // a number or a word
    return ended == Status::kOpen ? push_after_value(c) : ended;
  }
  if (streams) arguments_ += c;
  if (streams && value_.empty()) value_ = '{';  // not kept
  if (!streams) value_ += c;
  if (in_string_) {
    if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == '"') {
      in_string_ = false;
    }
    return in_string_ || depth_ > 0 ? Status::kOpen : end_value();
  }
  if (c == '"') in_string_ = true;
  if (c == '{' || c == '[') ++depth_;
  if (depth_ > kMaxDepth) return Status::kNoCall;
  if (c == '}' || c == ']') return --depth_ == 0 ? end_value() : Status::kOpen;
  return Status::kOpen;
}

CallScanner::Status CallScanner::end_value() {
  state_ = State::kAfterValue;
  const std::string value = std::exchange(value_, {});
  if (key_ == "\"name\"") {
    const auto parsed = nlohmann::json::parse(value, nullptr, false);
    if (!parsed.is_string()) return Status::kNoCall;
    const auto& name = parsed.get_ref<const std::string&>();
    if (std::find(tools_.begin(), tools_.end(), name) == tools_.end()) return Status::kNoCall;
    name_ = name;
  } else if (is_arguments() && value[0] == '"') {  // arguments as the text of an object
    const auto parsed = nlohmann::json::parse(value, nullptr, false);
    if (!parsed.is_string()) return Status::kNoCall;
    arguments_ += parsed.get_ref<const std::string&>();
  } else if (is_arguments() && value != "{") {
    if (value != "null") return Status::kNoCall;
  }
  return Status::kOpen;
}

CallScanner::Status CallScanner::push_after_value(char c) {
  if (is_space(c)) return Status::kOpen;
  if (c == ',') {
    state_ = State::kKeyOrEnd;
    return Status::kOpen;
  }
  if (c != '}' || name_.empty()) return Status::kNoCall;
  return Status::kDone;
}

std::string CallScanner::take_arguments() {
  return name_.empty() ? std::string() : std::exchange(arguments_, {});
}

}  // namespace deltacome::server
