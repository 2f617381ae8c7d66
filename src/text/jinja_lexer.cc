// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "core/check.h"
#include "core/utf8.h"
#include "text/unicode_text.h"

namespace deltacome::jinja {
namespace {

constexpr std::array<std::string_view, 26> kOperators{
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

bool is_name_start(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) || c == '_';
}
bool is_digit_char(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_char(char c) {
  return is_name_start(c) || is_digit_char(c);
}

std::string normalize_newlines(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r') {
      out += '\n';
      if (i + 1 < text.size() && text[i + 1] == '\n') ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_newlines(source)) {
    if (!source_.empty() && source_.back() == '\n') source_.pop_back();
  }

  std::vector<Token> run() {
    while (pos_ < source_.size()) lex_root();
    add(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void syntax_error(const std::string& message) const {
    fail(ErrorCode::kCorrupt, "chat template line {}: {}", line_, message);
  }

  void add(TokenType type, std::string text) { tokens_.push_back({type, std::move(text), line_}); }

  bool at(std::string_view text, size_t offset = 0) const {
    return source_.compare(pos_ + offset, text.size(), text) == 0;
  }

  void advance(size_t n) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(pos_),
                                         source_.begin() + static_cast<ptrdiff_t>(pos_ + n), '\n'));
    pos_ += n;
    if (n > 0) line_starting_ = source_[pos_ - 1] == '\n';
  }

  void skip_space() {
    const std::string_view rest = std::string_view(source_).substr(pos_);
    advance(rest.size() - strip_space(rest, Side::kLeft).size());
  }

  /// Text up to the next tag, without what the tag's sign or lstrip_blocks takes.
  void add_data(size_t end, char sign, bool is_variable) {
    std::string_view text = std::string_view(source_).substr(pos_, end - pos_);
    if (sign == '-') {
      text = strip_space(text, Side::kRight);
    } else if (sign != '+' && !is_variable) {
      const size_t line_begin = text.rfind('\n') + 1;  // npos + 1 == 0
      if ((line_begin > 0 || line_starting_) &&
          strip_space(text.substr(line_begin), Side::kLeft).empty()) {
        text = text.substr(0, line_begin);
      }
    }
    if (!text.empty()) add(TokenType::kData, std::string(text));
    advance(end - pos_);
  }

  void lex_root() {
    size_t tag = pos_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        add(TokenType::kData, source_.substr(pos_));
        advance(source_.size() - pos_);
        return;
      }
      const char kind = source_[tag + 1];
      if (kind == '{' || kind == '%' || kind == '#') break;
    }
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    const bool has_sign = sign == '-' || sign == '+';
    add_data(tag, sign, kind == '{');
    if (kind == '%' && lex_raw(has_sign)) return;
    if (kind != '#') add(kind == '{' ? TokenType::kVariableBegin : TokenType::kBlockBegin, "");
    advance(has_sign ? 3 : 2);
    if (kind == '#') {
      lex_comment();
    } else {
      lex_expression(kind == '%');
    }
  }

  /// Moves past the end of a block or comment tag that begins at pos_, whitespace rules included;
  /// false if there is none. `close` is "%}" or "#}".
  bool take_close(std::string_view close) {
    if (at("-") && at(close, 1)) {
      advance(1 + close.size());
      skip_space();
      return true;
    }
    if (at("+") && at(close, 1)) {
      advance(1 + close.size());
      return true;
    }
    if (!at(close)) return false;
    advance(close.size());
    if (at("\n")) advance(1);  // trim_blocks
    return true;
  }

  void lex_comment() {
    const int begin = line_;
    while (pos_ < source_.size()) {
      if (take_close("#}")) return;
      advance(1);
    }
    line_ = begin;
    syntax_error("missing end of comment tag");
  }

  /// Length of a `{% name %}` tag at pos_ up to but without its close; 0 if there is none.
  size_t tag_head(std::string_view name) const {
    if (!at("{%")) return 0;
    size_t i = pos_ + 2;
    if (i < source_.size() && (source_[i] == '-' || source_[i] == '+')) ++i;
    const auto skip = [&] {
      const std::string_view rest = std::string_view(source_).substr(i);
      i += rest.size() - strip_space(rest, Side::kLeft).size();
    };
    skip();
    if (source_.compare(i, name.size(), name) != 0) return 0;
    i += name.size();
    skip();
    for (const std::string_view close : {"%}", "-%}", "+%}"}) {
      if (source_.compare(i, close.size(), close) == 0) return i - pos_;
    }
    return 0;
  }

  /// {% raw %}...{% endraw %}; false if the tag at pos_ is another one.
  bool lex_raw(bool) {
    const size_t head = tag_head("raw");
    if (head == 0 || source_[pos_ + head] == '+') return false;
    const int begin = line_;
    advance(head);
    if (at("-")) {
      advance(3);
      skip_space();
    } else {
      advance(2);  // trim_blocks does not apply here
    }
    for (size_t end = pos_;; ++end) {
      end = source_.find("{%", end);
      if (end == std::string::npos) {
        line_ = begin;
        syntax_error("missing end of raw directive");
      }
      const size_t saved = pos_;
      pos_ = end;
      const size_t end_head = tag_head("endraw");
      pos_ = saved;
      if (end_head == 0) continue;
      add_data(end, source_[end + 2], false);
      advance(end_head);
      take_close("%}");
      return true;
    }
  }

  void lex_expression(bool is_block) {
    std::string open;  // closers that are due
    for (;;) {
      if (pos_ >= source_.size()) syntax_error("unexpected end of template inside a tag");
      if (open.empty() && take_end(is_block)) return;
      const char c = source_[pos_];
      const size_t before = pos_;
      skip_space();
      if (pos_ != before) continue;
      if (is_digit_char(c)) {
        lex_number();
      } else if (is_name_start(c)) {
        size_t n = 1;
        while (pos_ + n < source_.size() && is_name_char(source_[pos_ + n])) ++n;
        add(TokenType::kName, source_.substr(pos_, n));
        advance(n);
      } else if (c == '\'' || c == '"') {
        lex_string(c);
      } else {
        lex_operator(open);
      }
    }
  }

  bool take_end(bool is_block) {
    const int line = line_;
    if (is_block) {
      if (!take_close("%}")) return false;
    } else if (at("-}}")) {
      advance(3);
      skip_space();
    } else if (at("}}")) {
      advance(2);
    } else {
      return false;
    }
    tokens_.push_back({is_block ? TokenType::kBlockEnd : TokenType::kVariableEnd, "", line});
    return true;
  }

  void lex_operator(std::string& open) {
    const auto* found = std::find_if(kOperators.begin(), kOperators.end(),
                                     [&](std::string_view op) { return at(op); });
    if (found == kOperators.end()) {
      syntax_error("unexpected character '" +
                   std::string(code_points(std::string_view(source_).substr(pos_, 4))[0]) + "'");
    }
    const char c = (*found)[0];
    if (c == '{') open += '}';
    if (c == '(') open += ')';
    if (c == '[') open += ']';
    if (c == '}' || c == ')' || c == ']') {
      if (open.empty() || open.back() != c) syntax_error(std::string("unexpected '") + c + "'");
      open.pop_back();
    }
    add(TokenType::kOperator, std::string(*found));
    advance(found->size());
  }

  /// Digits with single underscores between them, from `i`; returns the end.
  template <class IsDigit>
  size_t digits_end(size_t i, IsDigit is_one) const {
    while (i < source_.size() &&
           (is_one(source_[i]) ||
            (source_[i] == '_' && i + 1 < source_.size() && is_one(source_[i + 1])))) {
      ++i;
    }
    return i;
  }

  void lex_number() {
    const auto add_number = [&](TokenType type, size_t end) {
      std::string text = source_.substr(pos_, end - pos_);
      std::erase(text, '_');
      add(type, std::move(text));
      advance(end - pos_);
    };
    const size_t whole = digits_end(pos_, is_digit_char);
    size_t end = whole;
    const auto digit_at = [&](size_t i) { return i < source_.size() && is_digit_char(source_[i]); };
    const bool after_dot = pos_ > 0 && source_[pos_ - 1] == '.';  // x.0.1 is two look-ups
    if (!after_dot) {
      if (end < source_.size() && source_[end] == '.' && digit_at(end + 1)) {
        end = digits_end(end + 1, is_digit_char);
      }
      if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
        const size_t sign =
            end + 1 < source_.size() && (source_[end + 1] == '+' || source_[end + 1] == '-');
        if (digit_at(end + 1 + sign)) end = digits_end(end + 1 + sign, is_digit_char);
      }
      if (end != whole) return add_number(TokenType::kFloat, end);
    }
    if (source_[pos_] == '0' && pos_ + 1 < source_.size() &&
        std::string_view("bBoOxX").find(source_[pos_ + 1]) != std::string_view::npos) {
      fail(ErrorCode::kUnsupported,
           "chat template line {}: the construct '{}' is not supported; supported are decimal "
           "numbers",
           line_, source_.substr(pos_, 2));
    }
    if (source_[pos_] == '0') {  // 012 is two tokens, which the parser refuses
      end = digits_end(pos_, [](char c) { return c == '0'; });
    }
    add_number(TokenType::kInt, end);
  }

  void lex_string(char quote) {
    const int begin = line_;
    size_t i = pos_ + 1;
    while (i < source_.size() && source_[i] != quote) i += source_[i] == '\\' ? 2 : 1;
    if (i >= source_.size()) syntax_error("missing end of string");
    add(TokenType::kString, unescape(std::string_view(source_).substr(pos_ + 1, i - pos_ - 1)));
    tokens_.back().line = begin;
    advance(i + 1 - pos_);
  }

  /// Reads n hexadecimal digits at the begin of `text`.
  uint32_t hex(std::string_view text, size_t n) const {
    if (text.size() < n || !std::all_of(text.begin(), text.begin() + static_cast<ptrdiff_t>(n),
                                        [](unsigned char c) { return std::isxdigit(c); })) {
      syntax_error("truncated escape in a string");
    }
    return static_cast<uint32_t>(std::stoul(std::string(text.substr(0, n)), nullptr, 16));
  }

  /// Python's unicode-escape.
  std::string unescape(std::string_view text) const {
    static constexpr std::string_view kLetters = "\\'\"abfnrtv";
    static constexpr std::string_view kValues = "\\'\"\a\b\f\n\r\t\v";
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 >= text.size()) {
        out += text[i];
        continue;
      }
      const char c = text[++i];
      const size_t known = kLetters.find(c);
      if (known != std::string_view::npos) {
        out += kValues[known];
      } else if (c == '\n') {  // a continued line
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        append_escape(out, hex(text.substr(i + 1), n));
        i += n;
      } else if (c >= '0' && c <= '7') {
        uint32_t value = 0;
        size_t n = 0;
        while (n < 3 && i + n < text.size() && text[i + n] >= '0' && text[i + n] <= '7') {
          value = value * 8 + static_cast<uint32_t>(text[i + n++] - '0');
        }
        append_escape(out, value);
        i += n - 1;
      } else if (c == 'N') {
        fail(ErrorCode::kUnsupported,
             "chat template line {}: the construct '\\N' is not supported; supported are \\x, \\u "
             "and \\U",
             line_);
      } else {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  void append_escape(std::string& out, uint32_t c) const {
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
      syntax_error("an escape in a string is not a character");
    }
    append_utf8(c, out);
  }

  std::string source_;
  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace deltacome::jinja
