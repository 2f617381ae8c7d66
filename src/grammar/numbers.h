// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "grammar/nfa.h"

namespace deltacome::grammar {

/// Digits before the point, and after it; of the exponent there are at most two. Longer numbers are
/// valid JSON that many programs cannot hold, and a model could write one for ever.
inline constexpr int kIntegerDigits = 18, kFractionDigits = 17;
inline constexpr int64_t kMaxInteger = 999'999'999'999'999'999;

/// From `first` to `last`, within kMaxInteger; absent: no bound.
struct NumberBounds {
  std::optional<int64_t> first, last;
  bool excludes_first = false, excludes_last = false;  // of read_number(); integers need none
};

/// Integers without fraction or exponent; not -0. If there is none in the bounds, the state that
/// comes back cannot be reached.
NfaState read_integer(Nfa& nfa, NfaState from, const NumberBounds& bounds);
NfaState read_number(Nfa& nfa, NfaState from);
/// Numbers in the bounds, at least one of which is given, without exponent.
NfaState read_number(Nfa& nfa, NfaState from, const NumberBounds& bounds);

}  // namespace deltacome::grammar
