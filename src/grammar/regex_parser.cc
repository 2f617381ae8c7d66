// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include "core/check.h"
#include "grammar/limits.h"
#include "grammar/regex.h"

namespace deltacome::grammar {
namespace {

const CodePoints kDigits{{'0', '9'}};
const CodePoints kWord{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CodePoints kSpace{{'\t', '\r'}, {' ', ' '}};
// What \S leaves out: the white space of ECMAScript and Python together.
const CodePoints kAnySpace{{'\t', '\r'},     {0x1C, ' '},      {0x85, 0x85},     {0xA0, 0xA0},
                           {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F},
                           {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const CodePoints kLineEnds{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
constexpr std::string_view kPunctuation = "^$\\.*+?()[]{}|/-\"'#&~=!<>,:;@%` _";

}  // namespace

/// Recursive descent over: alternatives of sequences of repeated atoms.
class RegexParser {
 public:
  RegexParser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Regex parse() {
    if (text_.size() > kMaxRegexBytes)
      fail(ErrorCode::kInvalidArgument, "{}: a regular expression of {} bytes, at most {} are read",
           where_, text_.size(), kMaxRegexBytes);
    do {
      const bool from_start = take('^');
      const size_t node = parse_sequence(0);
      const bool to_end = take('$');
      out_.alternatives_.push_back({node, from_start, to_end});
    } while (take('|'));
    if (at_ < text_.size()) bad(text_[at_] == ')' ? "a ) that closes nothing" : kAnchor);
    return std::move(out_);
  }

 private:
  using Node = Regex::Node;
  static constexpr const char* kAnchor =
      "an anchor inside; ^ and $ may only be at the ends of the expression, or of an alternative "
      "that is in no group";

  [[noreturn]] void bad(std::string_view what) const {
    fail(ErrorCode::kInvalidArgument, "{}: regular expression, byte {}: {}", where_, at_, what);
  }
  bool more() const { return at_ < text_.size(); }
  bool take(char c) {
    if (!more() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view s) {
    if (!text_.substr(at_).starts_with(s)) return false;
    at_ += s.size();
    return true;
  }
  size_t add(Node node) {
    out_.nodes_.push_back(std::move(node));
    return out_.nodes_.size() - 1;
  }
  size_t character(CodePoints set) {
    if (set.empty()) bad("a class that holds no character");
    return add({.kind = Node::Kind::kCharacter, .set = std::move(set)});
  }

  size_t parse_either(int depth) {
    Node either{.kind = Node::Kind::kEither};
    do either.children.push_back(parse_sequence(depth));
    while (take('|'));
    return either.children.size() == 1 ? either.children[0] : add(std::move(either));
  }

  size_t parse_sequence(int depth) {
    Node sequence{.kind = Node::Kind::kSequence};
    while (more() && text_[at_] != '|' && text_[at_] != ')' && text_[at_] != '$')
      sequence.children.push_back(parse_repeated(depth));
    return add(std::move(sequence));
  }

  size_t parse_repeated(int depth) {
    size_t node = parse_atom(depth);
    int n_repeats = 0;
    while (more()) {
      int least = 0, most = -1;
      if (take('*')) {
      } else if (take('+')) {
        least = 1;
      } else if (take('?')) {
        most = 1;
      } else if (take('{')) {
        least = parse_count();
        most = take(',') ? (more() && text_[at_] != '}' ? parse_count() : -1) : least;
        if (!take('}')) bad("a count that does not end with }; a { of the text is written \\{");
        if (most >= 0 && most < least) bad("a count whose end is before its beginning");
      } else {
        break;
      }
      if (++n_repeats > 1) bad("a repetition of a repetition; put the inner one into a group");
      if (take('+')) bad("possessive repetition is not supported");
      take('?');  // a lazy repetition matches the same texts
      node = add({.kind = Node::Kind::kRepeat, .children = {node}, .least = least, .most = most});
    }
    return node;
  }

  int parse_count() {
    int count = 0;
    const size_t begin = at_;
    for (; more() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      count = count * 10 + (text_[at_] - '0');
      if (count > kMaxRepeat) bad(fmt::format("a count beyond {}", kMaxRepeat));
    }
    if (at_ == begin) bad("a count without digits; a { of the text is written \\{");
    return count;
  }

  size_t parse_atom(int depth) {
    if (take('.')) return character(kLineEnds.complement());
    if (take('[')) return character(parse_class());
    if (take('(')) return parse_group(depth + 1);
    if (take('\\')) return character(parse_escape(false));
    const char c = text_[at_];
    if (c == '^') bad(kAnchor);
    if (c == '*' || c == '+' || c == '?' || c == '{') bad("nothing before it to repeat");
    const char32_t point = next_character(text_, at_);
    return character({{point, point}});
  }

  size_t parse_group(int depth) {
    if (depth > kMaxRegexDepth) bad(fmt::format("groups nested more than {} deep", kMaxRegexDepth));
    if (take('?') && !take(':')) {
      const bool named = take("P<") || (text_.substr(at_).starts_with("<") &&
                                        !text_.substr(at_).starts_with("<=") &&
                                        !text_.substr(at_).starts_with("<!") && take('<'));
      if (!named) bad("look-around, flags and conditions are not supported");
      while (more() && text_[at_] != '>') ++at_;
      if (!take('>')) bad("a group's name that does not end with >");
    }
    const size_t node = parse_either(depth);
    if (!take(')')) bad(more() && text_[at_] == '$' ? kAnchor : "a group that does not end with )");
    return node;
  }

  CodePoints parse_class() {
    const bool negated = take('^');
    CodePoints set;
    if (more() && text_[at_] == ']') bad("an empty class; a ] in a class is written \\]");
    while (!take(']')) {
      if (!more()) bad("a class that does not end with ]");
      const CodePoints first = parse_class_item();
      const bool range =
          more() && text_[at_] == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']';
      if (!range) {
        set.add(first);
        continue;
      }
      ++at_;
      const CodePoints last = parse_class_item();
      const auto single = [](const CodePoints& s) {
        return s.ranges().size() == 1 && s.ranges()[0].first == s.ranges()[0].last;
      };
      if (!single(first) || !single(last)) bad("a range in a class from or to a class");
      const char32_t begin = first.ranges()[0].first, end = last.ranges()[0].first;
      if (begin > end) bad("a range in a class whose end is before its beginning");
      set.add(begin, end);
    }
    return (negated ? set.complement() : set).intersection(CodePoints::all());
  }

  CodePoints parse_class_item() {
    if (take('\\')) return parse_escape(true);
    if (!more()) bad("a class that does not end with ]");
    const char32_t c = next_character(text_, at_);
    return {{c, c}};
  }

  /// After the backslash.
  CodePoints parse_escape(bool in_class) {
    if (!more()) bad("a backslash at the end");
    const char c = text_[at_++];
    const auto one = [](char32_t p) { return CodePoints{{p, p}}; };
    switch (c) {
      case 'd':
        return kDigits;
      case 'D':
        return kDigits.complement();
      case 'w':
        return kWord;
      case 'W':
        return kWord.complement();
      case 's':
        return kSpace;
      case 'S':
        return kAnySpace.complement();
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 't':
        return one('\t');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 'x':
        return one(parse_hex(2));
      case 'u':
        return one(parse_hex(4));
      default:
        break;
    }
    if (kPunctuation.find(c) != std::string_view::npos) return one(static_cast<char32_t>(c));
    --at_;
    if (c >= '0' && c <= '9') bad("back-references and octal escapes are not supported");
    if (!in_class && (c == 'b' || c == 'B' || c == 'A' || c == 'Z'))
      bad("anchors other than ^ and $ are not supported");
    bad("an escape that is not supported");
  }

  char32_t parse_hex(int n_digits) {
    char32_t value = 0;
    for (int i = 0; i < n_digits; ++i, ++at_) {
      const char c = more() ? text_[at_] : '\0';
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) bad(fmt::format("an escape that needs {} hexadecimal digits", n_digits));
      value = value * 16 + static_cast<char32_t>(digit);
    }
    if (value >= 0xD800 && value <= 0xDFFF) bad("half of a surrogate pair");
    return value;
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
  Regex out_;
};

Regex Regex::parse(std::string_view pattern, const std::string& where) {
  check_utf8(pattern, where);
  return RegexParser(pattern, where).parse();
}

}  // namespace deltacome::grammar
