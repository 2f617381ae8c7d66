// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace deltacome {

/// Finds the first of several texts in a stream of pieces. Text that may be the beginning of one is
/// held back until it is known, so what came out never has to be taken back.
class StopMatcher {
 public:
  /// `include`: the text that was found is given out too.
  StopMatcher(std::vector<std::string> stops, bool include);

  /// Text that is final now. After a match, nothing more.
  std::string push(std::string_view piece);
  std::string finish();  // what is held back; the stream has ended
  const std::optional<std::string>& found() const noexcept { return found_; }

 private:
  std::vector<std::string> stops_;
  bool include_;
  std::string held_;
  std::optional<std::string> found_;
};

/// The text of one growing answer: tokens in, final text out, until a stop text is found.
class AnswerText {
 public:
  /// Without a tokenizer there is no text.
  AnswerText(const Tokenizer* tokenizer, bool skip_special_tokens, std::vector<std::string> stops,
             bool include_stop);

  /// `may_stop` false: stop texts in this piece do not count (min_tokens is not reached).
  std::string push(int32_t token, bool may_stop);
  std::string finish();
  const std::optional<std::string>& found() const noexcept { return matcher_.found(); }

 private:
  std::optional<StreamDecoder> decoder_;
  StopMatcher matcher_;
};

}  // namespace deltacome
