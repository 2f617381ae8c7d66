// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "grammar/nfa.h"

namespace deltacome::grammar {

/// A set of Unicode scalar values: ranges in order, neither touching nor overlapping.
class CodePoints {
 public:
  struct Range {
    char32_t first, last;  // both inside
    bool operator==(const Range&) const = default;
  };
  CodePoints() = default;
  CodePoints(std::initializer_list<Range> ranges);
  static const CodePoints& all();  // without surrogates

  void add(char32_t first, char32_t last);
  void add(const CodePoints& other);
  CodePoints complement() const;
  CodePoints intersection(const CodePoints& other) const;
  bool contains(char32_t c) const;
  bool empty() const noexcept { return ranges_.empty(); }
  const std::vector<Range>& ranges() const noexcept { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

/// How a character is spelled in the text.
enum class Spelling {
  kPlain,       // its UTF-8
  kJsonString,  // inside of a JSON string: ", \ and control characters by their shortest escapes
};

/// Reads one character of the set, from a state to a state.
void read_code_points(Nfa& nfa, NfaState from, const CodePoints& set, Spelling spelling,
                      NfaState to);

/// Throws kInvalidArgument if a text is not well-formed UTF-8; `where` begins the message.
void check_utf8(std::string_view text, const std::string& where);

/// The character at text[at], and `at` after it. Of well-formed text, as the next.
char32_t next_character(std::string_view text, size_t& at);
std::u32string characters(std::string_view text);

/// The spelling of `c`, which must be a scalar value.
std::string spell(char32_t c, Spelling spelling);
/// Of a whole text in UTF-8, which must be well-formed.
std::string spell(std::string_view text, Spelling spelling);

}  // namespace deltacome::grammar
