// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "grammar/byte_set.h"

namespace deltacome::grammar {

using NfaState = int32_t;
using RuleId = int32_t;

/// A graph that reads bytes and calls rules: what schemas and regular expressions are written into,
/// from a state to a state, before Automaton makes it deterministic. A rule is a place where a call
/// enters; an accepting state is where it returns, or, in the root, where the text may end.
class Nfa {
 public:
  enum class Kind : uint8_t { kEpsilon, kBytes, kCall };
  struct Edge {
    NfaState to;
    int32_t next;   // index of the state's next edge; -1 = last
    int32_t label;  // kBytes: index in sets(); kCall: the rule
    Kind kind;
  };

  NfaState add_state();  // throws kInvalidArgument if there are too many
  void epsilon(NfaState from, NfaState to) { add_edge(from, to, 0, Kind::kEpsilon); }
  void bytes(NfaState from, const ByteSet& set, NfaState to);
  void call(NfaState from, RuleId rule, NfaState to) { add_edge(from, to, rule, Kind::kCall); }
  void accept(NfaState state) { states_[static_cast<size_t>(state)].accepting = true; }
  RuleId add_rule(NfaState start);

  /// Reads `text` and nothing else; returns the state after it.
  NfaState literal(NfaState from, std::string_view text);
  NfaState bytes(NfaState from, const ByteSet& set);

  size_t size() const noexcept { return states_.size(); }
  bool accepting(NfaState state) const { return states_[static_cast<size_t>(state)].accepting; }
  int32_t first_edge(NfaState state) const { return states_[static_cast<size_t>(state)].edges; }
  const Edge& edge(int32_t index) const { return edges_[static_cast<size_t>(index)]; }
  const std::vector<ByteSet>& sets() const noexcept { return sets_; }
  const std::vector<NfaState>& rules() const noexcept { return rules_; }  // their starts

 private:
  struct State {
    int32_t edges = -1;
    bool accepting = false;
  };
  void add_edge(NfaState from, NfaState to, int32_t label, Kind kind);

  std::vector<State> states_;
  std::vector<Edge> edges_;
  std::vector<ByteSet> sets_;
  std::map<ByteSet, int32_t> set_ids_;
  std::vector<NfaState> rules_;
};

}  // namespace deltacome::grammar
