// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <vector>

#include "grammar/automaton.h"

namespace deltacome::grammar {

/// Makes an Automaton, in the order of its members.
class AutomatonBuilder {
 public:
  AutomatonBuilder(const Nfa& nfa, Automaton& out) : nfa_(nfa), out_(out) {}

  /// Bytes that no edge tells apart become one class.
  void find_classes();
  /// Subset construction. Rules that are called become states of their own.
  void determinize(NfaState root);
  /// Automaton::need(), and no edges to what can never be finished.
  void trim();
  void find_plain_chars();

 private:
  using State = Automaton::State;
  using Set = std::vector<NfaState>;  // sorted

  struct RawCall {
    State from;
    Automaton::Call call;
  };

  State state_of(const Set& targets);
  void expand(size_t state);
  bool plain_successors(State state, const std::vector<bool>& quiet, std::vector<State>& out) const;

  const Nfa& nfa_;
  Automaton& out_;
  std::vector<std::vector<uint8_t>> classes_of_set_;  // by label of a bytes edge
  std::map<Set, State> ids_;
  std::vector<const Set*> sets_;  // by state; keys of ids_
  std::vector<uint32_t> seen_;    // by NFA state: in which closure
  uint32_t closure_ = 0;
  size_t work_ = 0;
  std::vector<RawCall> calls_;  // sorted by from
};

}  // namespace deltacome::grammar
