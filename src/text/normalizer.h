// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "text/regex.h"

namespace deltacome {

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

/// `text` in a normalization form, by the Unicode version of `tokenizers` (9). Linear but for the
/// sort of each run of combining marks.
std::string to_unicode_form(std::string_view text, UnicodeForm form);
/// Full lower case, character by character (no final sigma), as Rust's char::to_lowercase.
std::string to_lower_case(std::string_view text);

struct PrependStep {
  std::string text;
};
struct ReplaceStep {
  Pattern pattern;
  std::string content;
};
struct LowercaseStep {};
struct StripStep {
  bool left;
  bool right;
};
using NormalizerStep =
    std::variant<PrependStep, ReplaceStep, UnicodeForm, LowercaseStep, StripStep>;

/// The `normalizer` of tokenizer.json: steps that each rewrite the whole text.
class Normalizer {
 public:
  struct Result {
    std::string text;
    bool keeps_start;  // the first character was not removed
  };

  Normalizer() = default;
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}
  bool empty() const noexcept { return steps_.empty(); }
  Result apply(std::string_view text) const;

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace deltacome
