// SPDX-License-Identifier: Apache-2.0
#include "grammar/code_points.h"

#include <algorithm>
#include <array>

#include "core/check.h"
#include "core/utf8.h"
#include "grammar/automaton.h"

namespace deltacome::grammar {
namespace {

constexpr char32_t kLast = 0x10FFFF;
constexpr CodePoints::Range kSurrogates{0xD800, 0xDFFF};

/// One range of characters whose UTF-8 has the same length: by lead byte, or as a whole where the
/// bytes after it may be any.
void read_range(Nfa& nfa, NfaState from, char32_t first, char32_t last, int n_tail, NfaState to,
                uint8_t lead_mark) {
  if (n_tail == 0) {
    nfa.bytes(from,
              ByteSet::range(static_cast<uint8_t>(lead_mark | first),
                             static_cast<uint8_t>(lead_mark | last)),
              to);
    return;
  }
  const char32_t unit = char32_t{1} << (6 * n_tail);  // characters of one lead byte
  const auto through_tail = [&](char32_t lead_first, char32_t lead_last, char32_t tail_first,
                                char32_t tail_last) {
    const NfaState next = nfa.add_state();
    nfa.bytes(from,
              ByteSet::range(static_cast<uint8_t>(lead_mark | lead_first),
                             static_cast<uint8_t>(lead_mark | lead_last)),
              next);
    read_range(nfa, next, tail_first, tail_last, n_tail - 1, to, 0x80);
  };
  char32_t lead_first = first / unit, lead_last = last / unit;
  if (lead_first == lead_last)
    return through_tail(lead_first, lead_last, first % unit, last % unit);
  if (first % unit != 0) {
    through_tail(lead_first, lead_first, first % unit, unit - 1);
    ++lead_first;
  }
  if (last % unit != unit - 1) {
    through_tail(lead_last, lead_last, 0, last % unit);
    if (lead_last == lead_first) return;
    --lead_last;
  }
  if (lead_first <= lead_last) through_tail(lead_first, lead_last, 0, unit - 1);
}

void read_utf8(Nfa& nfa, NfaState from, const CodePoints& set, NfaState to) {
  struct Length {
    CodePoints::Range range;
    uint8_t lead_mark;
  };
  constexpr std::array<Length, 4> kLengths = {{{{0, 0x7F}, 0x00},
                                               {{0x80, 0x7FF}, 0xC0},
                                               {{0x800, 0xFFFF}, 0xE0},
                                               {{0x10000, kLast}, 0xF0}}};
  for (const CodePoints::Range& range : set.ranges()) {
    for (size_t n_tail = 0; n_tail < kLengths.size(); ++n_tail) {
      const char32_t first = std::max(range.first, kLengths[n_tail].range.first);
      const char32_t last = std::min(range.last, kLengths[n_tail].range.last);
      if (first <= last)
        read_range(nfa, from, first, last, static_cast<int>(n_tail), to,
                   kLengths[n_tail].lead_mark);
    }
  }
}

}  // namespace

CodePoints::CodePoints(std::initializer_list<Range> ranges) {
  for (const Range& r : ranges) add(r.first, r.last);
}

const CodePoints& CodePoints::all() {
  static const CodePoints kAll{{0, kSurrogates.first - 1}, {kSurrogates.last + 1, kLast}};
  return kAll;
}

void CodePoints::add(char32_t first, char32_t last) {
  // Those that touch or overlap become one with it.
  auto begin = std::ranges::find_if(ranges_, [&](const Range& r) { return r.last + 1 >= first; });
  auto end = begin;
  while (end != ranges_.end() && end->first <= last + 1) {
    first = std::min(first, end->first);
    last = std::max(last, end->last);
    ++end;
  }
  begin = ranges_.erase(begin, end);
  ranges_.insert(begin, {first, last});
}

void CodePoints::add(const CodePoints& other) {
  for (const Range& r : other.ranges_) add(r.first, r.last);
}

CodePoints CodePoints::complement() const {
  CodePoints gaps;
  char32_t next = 0;
  for (const Range& r : ranges_) {
    if (r.first > next) gaps.add(next, r.first - 1);
    next = r.last + 1;
  }
  if (next <= kLast) gaps.add(next, kLast);
  return gaps.intersection(all());
}

CodePoints CodePoints::intersection(const CodePoints& other) const {
  CodePoints out;
  auto a = ranges_.begin();
  auto b = other.ranges_.begin();
  while (a != ranges_.end() && b != other.ranges_.end()) {
    const char32_t first = std::max(a->first, b->first), last = std::min(a->last, b->last);
    if (first <= last) out.ranges_.push_back({first, last});
    (a->last < b->last ? a : b)++;
  }
  return out;
}

bool CodePoints::contains(char32_t c) const {
  return std::ranges::any_of(ranges_, [&](const Range& r) { return r.first <= c && c <= r.last; });
}

void read_code_points(Nfa& nfa, NfaState from, const CodePoints& set, Spelling spelling,
                      NfaState to) {
  if (spelling == Spelling::kPlain)
    return read_utf8(nfa, from, set.intersection(CodePoints::all()), to);
  static const CodePoints kEscaped{{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
  read_utf8(nfa, from, set.intersection(kEscaped.complement()), to);
  const CodePoints escaped = set.intersection(kEscaped);
  for (const CodePoints::Range& range : escaped.ranges()) {
    for (char32_t c = range.first; c <= range.last; ++c) {
      std::string text = spell(c, spelling);
      const char end = text.back();
      text.pop_back();
      nfa.bytes(nfa.literal(from, text), ByteSet::of(end), to);
    }
  }
}

void check_utf8(std::string_view text, const std::string& where) {
  static const Automaton kUtf8 = [] {
    Nfa nfa;
    const NfaState start = nfa.add_state();
    read_code_points(nfa, start, CodePoints::all(), Spelling::kPlain, start);
    nfa.accept(start);
    return Automaton(nfa, start);
  }();
  Automaton::State state = kUtf8.start();
  for (size_t i = 0; i < text.size(); ++i) {
    state = kUtf8.next(state, kUtf8.byte_class(static_cast<uint8_t>(text[i])));
    if (state == Automaton::kDead)
      fail(ErrorCode::kInvalidArgument, "{}: not UTF-8 at byte {}", where, i);
  }
  if (!kUtf8.accepting(state))
    fail(ErrorCode::kInvalidArgument, "{}: ends within a character of UTF-8", where);
}

char32_t next_character(std::string_view text, size_t& at) {
  const char32_t c = code_point_at(text, at);
  at += static_cast<size_t>(utf8_size(text[at]));
  return c;
}

std::u32string characters(std::string_view text) {
  std::u32string out;
  for (size_t at = 0; at < text.size();) out += next_character(text, at);
  return out;
}

std::string spell(char32_t c, Spelling spelling) {
  std::string out;
  if (spelling == Spelling::kPlain || (c >= 0x20 && c != '"' && c != '\\')) {
    append_utf8(c, out);
    return out;
  }
  constexpr std::string_view kShort = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt";
  const size_t at = kShort.find(static_cast<char>(c));
  if (at != std::string_view::npos) return {'\\', kLetters[at]};
  constexpr std::string_view kHex = "0123456789abcdef";
  return std::string("\\u00") + kHex[c >> 4] + kHex[c & 15];
}

std::string spell(std::string_view text, Spelling spelling) {
  if (spelling == Spelling::kPlain) return std::string(text);
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      out += spell(char32_t{byte}, spelling);
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace deltacome::grammar
