// SPDX-License-Identifier: Apache-2.0
#include "engine/answer_text.h"

#include <algorithm>
#include <utility>

namespace deltacome {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include)
    : stops_(std::move(stops)), include_(include) {}

std::string StopMatcher::push(std::string_view piece) {
  if (found_) return {};
  held_ += piece;
  size_t first = std::string::npos;
  const std::string* match = nullptr;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at < first) {
      first = at;
      match = &stop;
    }
  }
  if (match != nullptr) {
    found_ = *match;
    held_.resize(include_ ? first + match->size() : first);
    return std::exchange(held_, {});
  }
  // The longest end of the text that is a beginning of a stop.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) keep = n;
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopMatcher::finish() {
  return found_ ? std::string() : std::exchange(held_, {});
}

AnswerText::AnswerText(const Tokenizer* tokenizer, bool skip_special_tokens,
                       std::vector<std::string> stops, bool include_stop)
    : matcher_(std::move(stops), include_stop) {
  if (tokenizer != nullptr) decoder_.emplace(*tokenizer, skip_special_tokens);
}

std::string AnswerText::push(int32_t token, bool may_stop) {
  if (!decoder_) return {};
  const std::string piece = decoder_->push(token);
  return may_stop ? matcher_.push(piece) : matcher_.finish() + piece;
}

std::string AnswerText::finish() {
  if (!decoder_ || matcher_.found()) return {};
  std::string out = matcher_.push(decoder_->finish());
  return out + matcher_.finish();
}

}  // namespace deltacome
