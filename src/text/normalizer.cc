// SPDX-License-Identifier: Apache-2.0
#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "core/utf8.h"
#include "text/unicode_tables.h"

namespace deltacome {
namespace {

bool is_ascii(std::string_view text) noexcept {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

int combining_class(utf8proc_int32_t c) noexcept {
  return utf8proc_get_property(c)->combining_class;
}

/// Canonical ordering: each run of characters with a class other than 0 is sorted by it, stably.
/// utf8proc's own is quadratic in the length of a run.
void order_marks(std::vector<utf8proc_int32_t>& text) {
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin;
    while (end < text.size() && combining_class(text[end]) != 0) ++end;
    if (end - begin > 1) {
      const auto first = text.begin() + static_cast<std::ptrdiff_t>(begin);
      std::stable_sort(first, text.begin() + static_cast<std::ptrdiff_t>(end),
                       [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    }
    begin = end + 1;
  }
}

std::string strip(std::string_view text, bool left, bool right) {
  size_t begin = 0;
  while (left && begin < text.size() && is_white_space(code_point_at(text, begin))) {
    begin += static_cast<size_t>(utf8_size(text[begin]));
  }
  size_t end = text.size();
  while (right && end > begin) {
    size_t at = end - 1;
    while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    if (!is_white_space(code_point_at(text, at))) break;
    end = at;
  }
  return std::string(text.substr(begin, end - begin));
}

/// Appends the form of a text without inert characters.
void append_form(std::string_view text, UnicodeForm form, std::string& out) {
  const bool compose = form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
  const bool compat = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compat ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  for (size_t at = 0; at < text.size(); at += static_cast<size_t>(utf8_size(text[at]))) {
    utf8proc_int32_t buffer[32];  // the longest decomposition has 18 characters
    int boundary = 0;
    const utf8proc_ssize_t n = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(code_point_at(text, at)), buffer, 32, options, &boundary);
    DELTACOME_CHECK(n >= 0 && n <= 32);
    points.insert(points.end(), buffer, buffer + n);
  }
  order_marks(points);
  if (compose) {
    const utf8proc_ssize_t n = utf8proc_normalize_utf32(
        points.data(), static_cast<utf8proc_ssize_t>(points.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    DELTACOME_CHECK(n >= 0);
    points.resize(static_cast<size_t>(n));
  }
  for (const utf8proc_int32_t c : points) append_utf8(static_cast<char32_t>(c), out);
}

struct Apply {
  Normalizer::Result& result;

  void operator()(const PrependStep& step) const {
    if (!result.text.empty()) result.text.insert(0, step.text);
  }
  void operator()(const ReplaceStep& step) const {
    const bool was_empty = result.text.empty();
    const char first = was_empty ? '\0' : result.text[0];
    result.text = step.pattern.replace_all(result.text, step.content);
    if (step.content.empty() && !was_empty && (result.text.empty() || result.text[0] != first)) {
      result.keeps_start = false;
    }
  }
  void operator()(UnicodeForm form) const { result.text = to_unicode_form(result.text, form); }
  void operator()(const LowercaseStep&) const { result.text = to_lower_case(result.text); }
  void operator()(const StripStep& step) const {
    if (step.left && !result.text.empty() && is_white_space(code_point_at(result.text, 0))) {
      result.keeps_start = false;
    }
    result.text = strip(result.text, step.left, step.right);
  }
};

}  // namespace

std::string to_unicode_form(std::string_view text, UnicodeForm form) {
  if (is_ascii(text)) return std::string(text);
  std::string out;
  out.reserve(text.size());
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const auto n_bytes = static_cast<size_t>(utf8_size(text[at]));
    if (n_bytes > 1 && is_inert_in_normalization(code_point_at(text, at))) {
      append_form(text.substr(begin, at - begin), form, out);
      out += text.substr(at, n_bytes);
      begin = at + n_bytes;
    }
    at += n_bytes;
  }
  append_form(text.substr(begin), form, out);
  return out;
}

std::string to_lower_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size(); at += static_cast<size_t>(utf8_size(text[at]))) {
    const char32_t c = code_point_at(text, at);
    if (c == 0x130) {
      out += "i\xCC\x87";  // the only character whose lower case has two
    } else {
      const auto lower = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
      append_utf8(lower == c ? added_lower_case(c) : lower, out);
    }
  }
  return out;
}

Normalizer::Result Normalizer::apply(std::string_view text) const {
  Result result{std::string(text), true};
  for (const NormalizerStep& step : steps_) std::visit(Apply{result}, step);
  return result;
}

}  // namespace deltacome
