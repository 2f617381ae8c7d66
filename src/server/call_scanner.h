// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <utility>

namespace deltacome::server {

/// Reads {"name": ..., "arguments": {...}} ("parameters" in Llama's words) character by character,
/// and gives the arguments as they come, as the model wrote them.
class CallScanner {
 public:
  enum class Status { kOpen, kDone, kNoCall };
  /// `tools` outlives it: only calls of these are calls.
  explicit CallScanner(std::span<const std::string> tools) : tools_(tools) {}

  Status push(char c);
  const std::string& name() const noexcept { return name_; }  // empty until it is known
  /// What came since the last call of this; empty until the name is known.
  std::string take_arguments();

 private:
  enum class State { kBegin, kKeyOrEnd, kKey, kColon, kValueBegin, kValue, kAfterValue };

  Status push_key(char c);
  Status push_value(char c);
  Status push_after_value(char c);
  Status end_value();
  bool is_arguments() const { return key_ == "\"arguments\"" || key_ == "\"parameters\""; }

  std::span<const std::string> tools_;
  State state_ = State::kBegin;
  std::string key_, value_, name_, arguments_;
  int depth_ = 0;  // inside the value
  bool in_string_ = false, escaped_ = false;
};

}  // namespace deltacome::server
