// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace deltacome {

/// Bytes [begin, end) of a text.
struct Span {
  size_t begin;
  size_t end;
  bool operator==(const Span&) const = default;
};

/// Rewrites a pattern of Oniguruma's Ruby syntax, which `tokenizers` uses, for PCRE2: \s is the
/// property White_Space, \w is Alphabetic, Mark, Nd and Pc, \h a hexadecimal digit.
/// Throws kUnsupported for what has no equal (&& and nested sets in a class, \W in a class).
std::string pcre_from_onig(std::string_view pattern);

/// A compiled regular expression over UTF-8. Immutable and thread-safe.
class Regex {
 public:
  /// Throws kUnsupported for a pattern that does not compile.
  explicit Regex(std::string_view onig_pattern);

  /// Leftmost match at or after `from`; `text` must be well-formed UTF-8. Throws kInvalidArgument
  /// when the pattern backtracks too much on it.
  std::optional<Span> find(std::string_view text, size_t from) const;

 private:
  std::string source_;
  std::shared_ptr<const pcre2_real_code_8> code_;
};

/// What a `Split` or `Replace` looks for: a literal string or a regular expression.
class Pattern {
 public:
  /// `text` must not be empty.
  static Pattern literal(std::string text) { return Pattern(std::move(text), std::nullopt); }
  static Pattern regex(std::string_view onig_pattern) { return Pattern({}, Regex(onig_pattern)); }

  /// All matches that do not overlap, from the left; clears `out` first.
  void find_all(std::string_view text, std::vector<Span>& out) const;
  /// The string if the pattern is a literal one, else nullptr.
  const std::string* literal_text() const noexcept { return regex_ ? nullptr : &literal_; }
  /// `text` with every match replaced by `content`.
  std::string replace_all(std::string_view text, std::string_view content) const;

 private:
  Pattern(std::string literal, std::optional<Regex> regex)
      : literal_(std::move(literal)), regex_(std::move(regex)) {}

  std::string literal_;
  std::optional<Regex> regex_;
};

}  // namespace deltacome
