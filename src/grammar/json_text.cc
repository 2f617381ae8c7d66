// SPDX-License-Identifier: Apache-2.0
#include "grammar/json_text.h"

#include "grammar/limits.h"
#include "grammar/numbers.h"

namespace deltacome::grammar {
namespace {

const ByteSet kHex = ByteSet::range('0', '9') | ByteSet::range('a', 'f') | ByteSet::range('A', 'F');

}  // namespace

RuleId JsonText::indent() {
  if (indent_) return *indent_;
  const NfaState start = nfa_.add_state();
  nfa_.accept(start);
  const auto chain = [&](char c, int n) {
    NfaState at = start;
    for (int i = 0; i < n; ++i) nfa_.accept(at = nfa_.bytes(at, ByteSet::of(c)));
  };
  chain(' ', kMaxIndent);
  chain('\t', kMaxIndent / 2);
  return *(indent_ = nfa_.add_rule(start));
}

NfaState JsonText::space(NfaState from) {
  const NfaState to = nfa_.add_state();
  nfa_.epsilon(from, to);
  nfa_.bytes(from, ByteSet::of(' '), to);
  nfa_.call(nfa_.bytes(from, ByteSet::of('\n')), indent(), to);
  return to;
}

NfaState JsonText::colon(NfaState from) {
  const NfaState read = nfa_.bytes(from, ByteSet::of(':')), to = nfa_.add_state();
  nfa_.epsilon(read, to);
  nfa_.bytes(read, ByteSet::of(' '), to);
  return to;
}

NfaState JsonText::comma(NfaState from) {
  return space(nfa_.bytes(from, ByteSet::of(',')));
}

/// After the backslash. Halves of surrogate pairs only as pairs.
RuleId JsonText::escape() {
  if (escape_) return *escape_;
  const NfaState start = nfa_.add_state(), end = nfa_.add_state();
  nfa_.accept(end);
  for (const char c : std::string_view("\"\\/bfnrt")) nfa_.bytes(start, ByteSet::of(c), end);
  const NfaState u = nfa_.literal(start, "u");
  const auto last_two = [&](NfaState from) { nfa_.bytes(nfa_.bytes(from, kHex), kHex, end); };
  const ByteSet d = ByteSet::of('d') | ByteSet::of('D');
  const ByteSet not_d = ByteSet::range('0', '9') | ByteSet::range('a', 'c') |
                        ByteSet::range('A', 'C') | ByteSet::range('e', 'f') |
                        ByteSet::range('E', 'F');
  last_two(nfa_.bytes(nfa_.bytes(u, not_d), kHex));
  const NfaState after_d = nfa_.bytes(u, d);
  last_two(nfa_.bytes(after_d, ByteSet::range('0', '7')));
  NfaState high = nfa_.bytes(
      after_d, ByteSet::range('8', '9') | ByteSet::range('a', 'b') | ByteSet::range('A', 'B'));
  high = nfa_.literal(nfa_.bytes(nfa_.bytes(high, kHex), kHex), "\\u");
  last_two(nfa_.bytes(nfa_.bytes(high, d), ByteSet::range('c', 'f') | ByteSet::range('C', 'F')));
  return *(escape_ = nfa_.add_rule(start));
}

void JsonText::character(NfaState from, NfaState to) {
  static const CodePoints kRaw{{0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0xD7FF}, {0xE000, 0x10FFFF}};
  read_code_points(nfa_, from, kRaw, Spelling::kPlain, to);
  nfa_.call(nfa_.bytes(from, ByteSet::of('\\')), escape(), to);
}

/// The inside of a string and its closing quote. The chains of bounded strings share their ends.
RuleId JsonText::string_rest(int least, int most) {
  const auto [found, is_new] = strings_.emplace(std::pair(least, most), 0);
  if (!is_new) return found->second;
  const auto ended = [&](NfaState from) { nfa_.accept(nfa_.bytes(from, ByteSet::of('"'))); };
  NfaState rest = 0;
  const int n_optional = most - least;
  if (most < 0) {
    rest = nfa_.add_state();
    character(rest, rest);
    ended(rest);
  } else if (const auto known = at_most_.find(n_optional); known != at_most_.end()) {
    rest = known->second;
  } else {
    for (int n = at_most_.empty() ? 0 : at_most_.rbegin()->first + 1; n <= n_optional; ++n) {
      const NfaState at = nfa_.add_state();
      ended(at);
      if (n > 0) character(at, at_most_.at(n - 1));
      at_most_[n] = at;
    }
    rest = at_most_.at(n_optional);
  }
  NfaState start = rest;
  for (int i = 0; i < least; ++i) {
    const NfaState before = nfa_.add_state();
    character(before, start);
    start = before;
  }
  return found->second = nfa_.add_rule(start);
}

NfaState JsonText::string(NfaState from, int least, int most) {
  const NfaState to = nfa_.add_state();
  nfa_.call(nfa_.bytes(from, ByteSet::of('"')), string_rest(least, most), to);
  return to;
}

NfaState JsonText::constant(NfaState from, std::string_view text) {
  return nfa_.literal(from, '"' + spell(text, Spelling::kJsonString) + '"');
}

NfaState JsonText::number(NfaState from) {
  return read_number(nfa_, from);
}

NfaState JsonText::any_value(NfaState from) {
  const NfaState to = nfa_.add_state();
  nfa_.epsilon(any_object(from), to);
  nfa_.epsilon(any_array(from), to);
  nfa_.epsilon(string(from), to);
  nfa_.epsilon(number(from), to);
  for (const char* word : {"true", "false", "null"}) nfa_.epsilon(nfa_.literal(from, word), to);
  return to;
}

NfaState JsonText::any_object(NfaState from) {
  const NfaState to = nfa_.add_state();
  nfa_.call(nfa_.bytes(from, ByteSet::of('{')), object_rest(), to);
  return to;
}

NfaState JsonText::any_array(NfaState from) {
  const NfaState to = nfa_.add_state();
  nfa_.call(nfa_.bytes(from, ByteSet::of('[')), array_rest(), to);
  return to;
}

RuleId JsonText::object_rest() {
  if (object_rest_) return *object_rest_;
  const NfaState start = nfa_.add_state(), end = nfa_.add_state();
  nfa_.accept(end);
  object_rest_ = nfa_.add_rule(start);  // first: values may be objects
  const NfaState first = space(start);
  nfa_.bytes(first, ByteSet::of('}'), end);
  const NfaState key = nfa_.add_state();
  nfa_.epsilon(first, key);
  const NfaState value_read = any_value(colon(string(key)));
  nfa_.epsilon(comma(value_read), key);
  nfa_.bytes(space(value_read), ByteSet::of('}'), end);
  return *object_rest_;
}

RuleId JsonText::array_rest() {
  if (array_rest_) return *array_rest_;
  const NfaState start = nfa_.add_state(), end = nfa_.add_state();
  nfa_.accept(end);
  array_rest_ = nfa_.add_rule(start);
  const NfaState first = space(start);
  nfa_.bytes(first, ByteSet::of(']'), end);
  const NfaState item = nfa_.add_state();
  nfa_.epsilon(first, item);
  const NfaState value_read = any_value(item);
  nfa_.epsilon(comma(value_read), item);
  nfa_.bytes(space(value_read), ByteSet::of(']'), end);
  return *array_rest_;
}

}  // namespace deltacome::grammar
