// SPDX-License-Identifier: Apache-2.0
#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>

#include "core/check.h"
#include "core/utf8.h"
#include "text/unicode_tables.h"

namespace deltacome {
namespace {

// Enough for any pre-tokenizer in use: those need a few steps a character.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kJitStackBytes = 8 * 1024 * 1024;
constexpr size_t kMaxPatternBytes = 64 * 1024;

/// Scratch of one thread: match data for one pair of offsets and the limits.
struct MatchScratch {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr);

  MatchScratch() {
    if (data == nullptr || context == nullptr) return;
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  MatchScratch(const MatchScratch&) = delete;
  MatchScratch& operator=(const MatchScratch&) = delete;
  ~MatchScratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

std::string pcre_message(int code) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

bool compiles(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

/// Translates one pattern, item by item; see pcre_from_onig().
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        escape();
      } else if (c == '[') {
        open_class();
      } else if (c == ']' && in_class_) {
        in_class_ = false;
        copy(1);
      } else if (in_class_ && in_.substr(at_, 2) == "&&") {
        reject("&& in a character class");
      } else if (!in_class_ && in_.substr(at_, 2) == "(*") {
        reject("(*");
      } else if (!in_class_ && in_.substr(at_, 2) == "(?") {
        group();
      } else {
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void reject(std::string_view what) const {
    fail(ErrorCode::kUnsupported, "regular expression \"{}\": {} is not supported", in_, what);
  }

  void copy(size_t n) {
    out_ += in_.substr(at_, n);
    at_ += std::min(n, in_.size() - at_);
  }

  void put(std::string_view text, size_t n_read) {
    out_ += text;
    at_ += n_read;
  }

  void open_class() {
    if (!in_class_) {
      in_class_ = true;
      copy(1);
      if (at_ < in_.size() && in_[at_] == '^') copy(1);
      if (at_ < in_.size() && in_[at_] == ']') put("\\]", 1);
    } else if (in_.substr(at_, 2) == "[:") {
      const size_t end = in_.find(":]", at_);
      if (end == std::string_view::npos) reject("[: without :]");
      copy(end + 2 - at_);
    } else {
      reject("a set inside a character class");
    }
  }

  /// In Ruby's syntax (?m) lets . match a newline, which PCRE2 calls (?s).
  void group() {
    copy(2);
    size_t end = at_;
    while (end < in_.size() && (in_[end] == '-' || (in_[end] >= 'a' && in_[end] <= 'z'))) ++end;
    if (end == in_.size() || (in_[end] != ':' && in_[end] != ')')) return;
    for (; at_ < end; ++at_) out_ += in_[at_] == 'm' ? 's' : in_[at_];
  }

  void escape() {
    if (at_ + 1 >= in_.size()) reject("a \\ at the end");
    switch (in_[at_ + 1]) {
      case 'd':
        return put(in_class_ ? digit_items() : fmt::format("[{}]", digit_items()), 2);
      case 'D':
        return in_class_ ? copy(2) : put(fmt::format("[^{}]", digit_items()), 2);
      case 's':
        return put("\\p{White_Space}", 2);
      case 'S':
        return put("\\P{White_Space}", 2);
      case 'w':
        return put(in_class_ ? word_items() : word(), 2);
      case 'W':
        if (in_class_) reject("\\W in a character class");
        return put(fmt::format("[^{}]", word_items()), 2);
      case 'h':
        return put(in_class_ ? "0-9a-fA-F" : "[0-9a-fA-F]", 2);
      case 'H':
        if (in_class_) reject("\\H in a character class");
        return put("[^0-9a-fA-F]", 2);
      case 'b':
        if (in_class_) return copy(2);
        return put(fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word()), 2);
      case 'B':
        return put(fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word()), 2);
      case 'u':
        if (at_ + 6 > in_.size()) reject("\\u without four digits");
        return put("\\x{" + std::string(in_.substr(at_ + 2, 4)) + "}", 6);
      case 'p':
      case 'P':
        return property();
      case 'K':
        reject("\\K");
      case 'Q':
      case 'E':
        return put(in_.substr(at_ + 1, 1), 2);
      default:
        copy(2);
    }
  }

  /// A general category also has what newer versions of Unicode added to it. \p{Han} of Oniguruma
  /// is the property Script, that of PCRE2 is Script_Extensions.
  void property() {
    const size_t end = in_.find('}', at_);
    if (in_.substr(at_ + 2, 1) != "{" || end == std::string_view::npos) return copy(2);
    const bool caret = in_.substr(at_ + 3, 1) == "^";
    const bool negated = (in_[at_ + 1] == 'P') != caret;
    const size_t begin = at_ + 3 + (caret ? 1 : 0);
    std::string name(in_.substr(begin, end - begin));
    if (const std::string added = added_ranges(name); !added.empty() && !(in_class_ && negated)) {
      const std::string items = fmt::format("\\p{{{}}}{}", name, added);
      return put(in_class_ ? items : fmt::format("[{}{}]", negated ? "^" : "", items),
                 end + 1 - at_);
    }
    if (const std::string script = "sc:" + name; compiles(fmt::format("\\p{{{}}}", script))) {
      name = script;
    }
    put(fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', name), end + 1 - at_);
  }

  /// Oniguruma's table of Latin-1 counts the superscripts and fractions as word characters.
  static std::string word_items() {
    return R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})" + added_ranges("L") +
           added_ranges("M") + added_ranges("Nd");
  }
  static std::string digit_items() { return "\\p{Nd}" + added_ranges("Nd"); }
  static std::string word() { return fmt::format("[{}]", word_items()); }

  static std::string added_ranges(std::string_view category) {
    std::string out;
    if (category.empty() || category.size() > 2) return out;
    for (const CategoryRange& range : added_categories()) {
      if (!std::string_view(range.category).starts_with(category)) continue;
      out += fmt::format("\\x{{{:X}}}-\\x{{{:X}}}", static_cast<uint32_t>(range.first),
                         static_cast<uint32_t>(range.last));
    }
    return out;
  }

  std::string_view in_;
  std::string out_;
  size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

std::string pcre_from_onig(std::string_view pattern) {
  return Translator(pattern).run();
}

Regex::Regex(std::string_view onig_pattern) : source_(onig_pattern) {
  if (source_.size() > kMaxPatternBytes) {
    fail(ErrorCode::kUnsupported, "a regular expression of {} bytes, at most {} are supported",
         source_.size(), kMaxPatternBytes);
  }
  const std::string pattern = pcre_from_onig(source_);
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (context == nullptr) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                    &offset, context.get());
  if (code == nullptr) {
    fail(ErrorCode::kUnsupported, "regular expression \"{}\": {}", source_, pcre_message(error));
  }
  code_.reset(code, [](pcre2_code* owned) { pcre2_code_free(owned); });
  // Where the JIT is not available, pcre2_match() interprets the pattern.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

std::optional<Span> Regex::find(std::string_view text, size_t from) const {
  thread_local const MatchScratch scratch;
  if (scratch.data == nullptr || scratch.context == nullptr) throw std::bad_alloc();
  const int rc = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                             from, PCRE2_NO_UTF_CHECK, scratch.data, scratch.context);
  if (rc == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (rc < 0) {
    fail(ErrorCode::kInvalidArgument, "regular expression \"{}\" on a text of {} bytes: {}",
         source_, text.size(), pcre_message(rc));
  }
  const PCRE2_SIZE* pair = pcre2_get_ovector_pointer(scratch.data);
  DELTACOME_CHECK(from <= pair[0] && pair[0] <= pair[1]);  // \K, which could break it, is rejected
  return Span{pair[0], pair[1]};
}

void Pattern::find_all(std::string_view text, std::vector<Span>& out) const {
  out.clear();
  if (!regex_) {
    for (size_t at = text.find(literal_); at != std::string_view::npos;
         at = text.find(literal_, at + literal_.size())) {
      out.push_back({at, at + literal_.size()});
    }
    return;
  }
  size_t from = 0;
  size_t last_end = std::string_view::npos;
  while (from <= text.size()) {
    const std::optional<Span> match = regex_->find(text, from);
    if (!match) return;
    // An empty match right after a match would not advance: try one character on.
    const bool repeats = match->begin == match->end && match->end == last_end;
    if (repeats) {
      if (match->end == text.size()) return;
      from = match->end + static_cast<size_t>(utf8_size(text[match->end]));
      last_end = std::string_view::npos;
      continue;
    }
    out.push_back(*match);
    from = last_end = match->end;
  }
}

std::string Pattern::replace_all(std::string_view text, std::string_view content) const {
  std::vector<Span> matches;
  find_all(text, matches);
  std::string out;
  out.reserve(text.size() + matches.size() * content.size());
  size_t from = 0;
  for (const Span& match : matches) {
    out += text.substr(from, match.begin - from);
    out += content;
    from = match.end;
  }
  out += text.substr(from);
  return out;
}

}  // namespace deltacome
