// SPDX-License-Identifier: Apache-2.0
#include "grammar/numbers.h"

#include <algorithm>
#include <string>

namespace deltacome::grammar {
namespace {

const ByteSet kDigit = ByteSet::range('0', '9');

/// Up to `n` digits more.
void up_to_digits(Nfa& nfa, NfaState from, int n, NfaState to) {
  nfa.epsilon(from, to);
  for (int i = 0; i < n; ++i) nfa.epsilon(from = nfa.bytes(from, kDigit), to);
}

/// Numbers of as many digits as `first` and `last`, from position i on. Tight: what was read before
/// equals the beginning of that bound.
void same_length(Nfa& nfa, NfaState from, const std::string& first, const std::string& last,
                 size_t i, bool tight_first, bool tight_last, NfaState to) {
  if (i == first.size()) return nfa.epsilon(from, to);
  char a = tight_first ? first[i] : '0', b = tight_last ? last[i] : '9';
  const auto go_on = [&](char c, char d, bool at_first, bool at_last) {
    const NfaState next =
        nfa.bytes(from, ByteSet::range(static_cast<uint8_t>(c), static_cast<uint8_t>(d)));
    same_length(nfa, next, first, last, i + 1, at_first, at_last, to);
  };
  if (tight_first && tight_last && a == b) return go_on(a, b, true, true);
  if (tight_first) {
    go_on(a, a, true, false);
    ++a;
  }
  if (tight_last) {
    go_on(b, b, false, true);
    --b;
  }
  if (a <= b) go_on(a, b, false, false);
}

/// Non-negative integers from first to last.
void between(Nfa& nfa, NfaState from, int64_t first, int64_t last, NfaState to) {
  int64_t power = 1;  // the least of its length
  for (int length = 1; length <= kIntegerDigits; ++length, power *= 10) {
    const int64_t a = std::max(first, length == 1 ? 0 : power), b = std::min(last, power * 10 - 1);
    if (a <= b) same_length(nfa, from, std::to_string(a), std::to_string(b), 0, true, true, to);
  }
}

enum class Fraction { kAny, kZero, kPositive };

void fraction(Nfa& nfa, NfaState from, Fraction kind, NfaState to) {
  if (kind != Fraction::kPositive) nfa.epsilon(from, to);
  const NfaState point = nfa.literal(from, ".");
  if (kind == Fraction::kAny)
    return up_to_digits(nfa, nfa.bytes(point, kDigit), kFractionDigits - 1, to);
  NfaState zeros = point;
  for (int i = 0; i < kFractionDigits; ++i) {
    if (kind == Fraction::kPositive)
      up_to_digits(nfa, nfa.bytes(zeros, ByteSet::range('1', '9')), kFractionDigits - 1 - i, to);
    zeros = nfa.bytes(zeros, ByteSet::of('0'));
    if (kind == Fraction::kZero) nfa.epsilon(zeros, to);
  }
}

/// Magnitudes from first to last with their fractions.
void magnitudes(Nfa& nfa, NfaState from, int64_t first, bool excludes_first, int64_t last,
                bool excludes_last, NfaState to) {
  if (first > last) return;
  const auto with = [&](int64_t a, int64_t b, Fraction kind) {
    if (a > b) return;
    const NfaState read = nfa.add_state();
    between(nfa, from, a, b, read);
    fraction(nfa, read, kind, to);
  };
  if (excludes_first) {
    if (first < last) with(first, first, Fraction::kPositive);
    with(first + 1, last - 1, Fraction::kAny);
  } else {
    with(first, last - 1, Fraction::kAny);
  }
  if (!excludes_last && !(excludes_first && first == last)) with(last, last, Fraction::kZero);
}

}  // namespace

NfaState read_integer(Nfa& nfa, NfaState from, const NumberBounds& bounds) {
  const NfaState to = nfa.add_state();
  const int64_t first = bounds.first.value_or(-kMaxInteger);
  const int64_t last = bounds.last.value_or(kMaxInteger);
  if (first < 0 && first <= last)
    between(nfa, nfa.literal(from, "-"), std::max<int64_t>(1, -last), -first, to);
  if (last >= 0) between(nfa, from, std::max<int64_t>(first, 0), last, to);
  return to;
}

NfaState read_number(Nfa& nfa, NfaState from) {
  const NfaState to = nfa.add_state(), digits = nfa.add_state(), whole = nfa.add_state(),
                 mantissa = nfa.add_state();
  nfa.epsilon(from, digits);
  nfa.bytes(from, ByteSet::of('-'), digits);
  nfa.bytes(digits, ByteSet::of('0'), whole);
  up_to_digits(nfa, nfa.bytes(digits, ByteSet::range('1', '9')), kIntegerDigits - 1, whole);
  fraction(nfa, whole, Fraction::kAny, mantissa);
  nfa.epsilon(mantissa, to);
  const NfaState e = nfa.bytes(mantissa, ByteSet::of('e') | ByteSet::of('E'));
  const NfaState exponent = nfa.add_state();
  nfa.epsilon(e, exponent);
  nfa.bytes(e, ByteSet::of('+') | ByteSet::of('-'), exponent);
  up_to_digits(nfa, nfa.bytes(exponent, kDigit), 1, to);
  return to;
}

NfaState read_number(Nfa& nfa, NfaState from, const NumberBounds& bounds) {
  const NfaState to = nfa.add_state();
  const int64_t first = bounds.first.value_or(-kMaxInteger);
  const int64_t last = bounds.last.value_or(kMaxInteger);
  if (first > last) return to;
  if (first < 0) {
    const bool to_zero = last >= 0;
    magnitudes(nfa, nfa.literal(from, "-"), to_zero ? 0 : -last,
               to_zero ? last == 0 && bounds.excludes_last : bounds.excludes_last, -first,
               bounds.excludes_first, to);
  }
  if (last >= 0)
    magnitudes(nfa, from, std::max<int64_t>(first, 0), first >= 0 && bounds.excludes_first, last,
               bounds.excludes_last, to);
  return to;
}

}  // namespace deltacome::grammar
