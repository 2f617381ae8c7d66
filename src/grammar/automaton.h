// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "grammar/nfa.h"

namespace deltacome::grammar {

/// A pushdown automaton over bytes: deterministic tables, and calls that push a state to return to.
/// States from which no text can be finished have no edges to them. Immutable.
class Automaton {
 public:
  using State = uint16_t;
  static constexpr State kDead = 0xFFFF;
  static constexpr uint8_t kEverything = 255;

  struct Call {
    State start;
    State return_to;
  };

  /// The automaton of `root`. Throws kInvalidArgument if it is too large, or allows no text at all,
  /// or none but the empty one.
  Automaton(const Nfa& nfa, NfaState root);

  State start() const noexcept { return start_; }
  size_t n_states() const noexcept { return info_.size(); }
  uint8_t byte_class(uint8_t byte) const noexcept { return classes_[byte]; }
  /// kDead if the byte cannot be read there.
  State next(State state, uint8_t byte_class) const noexcept {
    return next_[state * n_classes_ + byte_class];
  }
  std::span<const Call> calls(State state) const noexcept {
    return std::span(calls_).subspan(info_[state].first_call, info_[state].n_calls);
  }
  bool accepting(State state) const noexcept { return info_[state].accepting; }
  bool reads(State state) const noexcept { return info_[state].reads; }  // some byte
  /// Reads bytes and does nothing else.
  bool simple(State state) const noexcept { return info_[state].simple; }
  /// Does nothing but return: a call that would come back to it need not come back at all.
  bool only_returns(State state) const noexcept { return info_[state].only_returns; }
  /// Frames that have to be pushed, at least, before the state's rule can return.
  int need(State state) const noexcept { return info_[state].need; }
  /// So many characters (kEverything: any number) of plain text are read from here whatever they
  /// are, without a call or a return. Plain: from U+0020 up, but not ", \ and U+007F.
  uint8_t plain_chars(State state) const noexcept { return info_[state].plain_chars; }

  size_t bytes() const noexcept;  // of memory

 private:
  struct Info {
    uint32_t first_call = 0;
    uint16_t n_calls = 0;
    uint8_t need = 0;
    uint8_t plain_chars = 0;
    bool accepting = false, reads = false, simple = false, only_returns = false;
  };
  friend class AutomatonBuilder;

  std::array<uint8_t, 256> classes_ = {};
  size_t n_classes_ = 0;
  State start_ = 0;
  std::vector<State> next_;  // [n_states, n_classes]
  std::vector<Info> info_;   // [n_states]
  std::vector<Call> calls_;
};

}  // namespace deltacome::grammar
