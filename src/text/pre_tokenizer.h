// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "text/regex.h"

namespace deltacome {

/// Where the matches of a Split go: dropped, pieces of their own, joined to a neighbour, or a piece
/// for each run.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

/// A piece of a text, to be tokenized on its own.
struct Piece {
  size_t begin;
  size_t end;
  bool at_start;  // begins where the original text begins
};

/// A text and its pieces, in order.
struct PieceText {
  std::string text;
  std::vector<Piece> pieces;
};

struct SplitStep {
  Pattern pattern;
  SplitBehavior behavior;
  bool invert;
};
/// Spells each byte as a printable character (GPT-2), after an optional split by GPT-2's pattern.
struct ByteLevelStep {
  bool add_prefix_space;
  std::optional<Pattern> pattern;
};
/// Spells spaces as `replacement`, prepends one, and splits before each.
struct MetaspaceStep {
  enum class Prepend { kAlways, kFirst, kNever };
  std::string replacement;
  Prepend prepend;
  bool split;
};
using PreTokenizerStep = std::variant<SplitStep, ByteLevelStep, MetaspaceStep>;

/// GPT-2's pattern, which ByteLevel uses unless use_regex is false.
extern const std::string_view kGpt2Pattern;

/// The `pre_tokenizer` of tokenizer.json.
class PreTokenizer {
 public:
  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<PreTokenizerStep> steps) : steps_(std::move(steps)) {}
  /// Splits `text`; `at_start` says whether it begins where the original text begins.
  PieceText apply(std::string text, bool at_start) const;

 private:
  std::vector<PreTokenizerStep> steps_;
};

/// Appends the UTF-8 of the character that stands for `byte` in byte-level BPE.
void append_byte_character(unsigned char byte, std::string& out);
/// The byte that a character stands for, or -1.
int byte_of_character(char32_t code_point) noexcept;

}  // namespace deltacome
