// SPDX-License-Identifier: Apache-2.0
#include "grammar/nfa.h"

#include "core/check.h"
#include "grammar/limits.h"

namespace deltacome::grammar {

NfaState Nfa::add_state() {
  // Edges too: each is made with a state, or by one of the few loops that make several.
  if (states_.size() >= kMaxNfaStates || edges_.size() >= 8 * kMaxNfaStates)
    fail(ErrorCode::kInvalidArgument, "the constraint is too large: more than {} positions",
         kMaxNfaStates);
  states_.emplace_back();
  return static_cast<NfaState>(states_.size() - 1);
}

void Nfa::add_edge(NfaState from, NfaState to, int32_t label, Kind kind) {
  State& state = states_[static_cast<size_t>(from)];
  edges_.push_back({to, state.edges, label, kind});
  state.edges = static_cast<int32_t>(edges_.size() - 1);
}

void Nfa::bytes(NfaState from, const ByteSet& set, NfaState to) {
  const auto [found, is_new] = set_ids_.emplace(set, static_cast<int32_t>(sets_.size()));
  if (is_new) sets_.push_back(set);
  add_edge(from, to, found->second, Kind::kBytes);
}

NfaState Nfa::bytes(NfaState from, const ByteSet& set) {
  const NfaState to = add_state();
  bytes(from, set, to);
  return to;
}

NfaState Nfa::literal(NfaState from, std::string_view text) {
  for (const char c : text) from = bytes(from, ByteSet::of(c));
  return from;
}

RuleId Nfa::add_rule(NfaState start) {
  rules_.push_back(start);
  return static_cast<RuleId>(rules_.size() - 1);
}

}  // namespace deltacome::grammar
