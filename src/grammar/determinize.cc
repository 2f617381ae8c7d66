// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/check.h"
#include "grammar/automaton_builder.h"
#include "grammar/limits.h"

namespace deltacome::grammar {

void AutomatonBuilder::find_classes() {
  std::vector<int> class_of(256, 0);
  int n_classes = 1;
  for (const ByteSet& set : nfa_.sets()) {
    std::map<std::pair<int, bool>, int> split;  // old class, in the set -> new class
    for (int b = 0; b < 256; ++b) {
      const bool inside = set.contains(static_cast<uint8_t>(b));
      int& of = class_of[static_cast<size_t>(b)];
      of = split.emplace(std::pair(of, inside), static_cast<int>(split.size())).first->second;
    }
    n_classes = static_cast<int>(split.size());
  }
  out_.n_classes_ = static_cast<size_t>(n_classes);
  for (size_t b = 0; b < 256; ++b) out_.classes_[b] = static_cast<uint8_t>(class_of[b]);
  for (const ByteSet& set : nfa_.sets()) {
    std::vector<bool> has(out_.n_classes_);
    for (int b = 0; b < 256; ++b)
      if (set.contains(static_cast<uint8_t>(b))) has[out_.classes_[static_cast<size_t>(b)]] = true;
    auto& classes = classes_of_set_.emplace_back();
    for (size_t c = 0; c < has.size(); ++c)
      if (has[c]) classes.push_back(static_cast<uint8_t>(c));
  }
}

/// The state of everything that is reached from `targets` without reading.
AutomatonBuilder::State AutomatonBuilder::state_of(const Set& targets) {
  ++closure_;
  Set pending, reached;
  const auto visit = [&](NfaState s) {
    uint32_t& seen = seen_[static_cast<size_t>(s)];
    if (std::exchange(seen, closure_) != closure_) pending.push_back(s);
  };
  for (const NfaState s : targets) visit(s);
  while (!pending.empty()) {
    const NfaState s = pending.back();
    pending.pop_back();
    if (++work_ > kMaxWork)
      fail(ErrorCode::kInvalidArgument, "the constraint is too ambiguous: it takes too much work");
    bool matters = nfa_.accepting(s);  // those with nothing but epsilon edges do not
    for (int32_t e = nfa_.first_edge(s); e >= 0; e = nfa_.edge(e).next) {
      if (nfa_.edge(e).kind == Nfa::Kind::kEpsilon) {
        visit(nfa_.edge(e).to);
      } else {
        matters = true;
      }
    }
    if (matters) reached.push_back(s);
  }
  std::ranges::sort(reached);
  const auto [found, is_new] =
      ids_.emplace(std::move(reached), static_cast<State>(std::min(ids_.size(), kMaxStates)));
  if (is_new) {
    if (ids_.size() > kMaxStates)
      fail(ErrorCode::kInvalidArgument, "the constraint is too large: more than {} states",
           kMaxStates);
    sets_.push_back(&found->first);
    out_.next_.resize(sets_.size() * out_.n_classes_, Automaton::kDead);
  }
  return found->second;
}

void AutomatonBuilder::expand(size_t state) {
  std::vector<Set> by_class(out_.n_classes_);
  std::map<RuleId, Set> by_rule;
  Automaton::Info info;
  for (const NfaState s : *sets_[state]) {
    info.accepting |= nfa_.accepting(s);
    for (int32_t e = nfa_.first_edge(s); e >= 0; e = nfa_.edge(e).next) {
      const Nfa::Edge& edge = nfa_.edge(e);
      if (edge.kind == Nfa::Kind::kBytes) {
        work_ += classes_of_set_[static_cast<size_t>(edge.label)].size();
        for (const uint8_t c : classes_of_set_[static_cast<size_t>(edge.label)])
          by_class[c].push_back(edge.to);
      } else if (edge.kind == Nfa::Kind::kCall) {
        by_rule[edge.label].push_back(edge.to);
      }
    }
  }
  out_.info_.push_back(info);
  std::map<Set, State> targets;  // few: most classes go where another one goes
  for (size_t c = 0; c < by_class.size(); ++c) {
    if (by_class[c].empty()) continue;
    const auto [found, is_new] = targets.emplace(std::move(by_class[c]), Automaton::kDead);
    if (is_new) found->second = state_of(found->first);
    out_.next_[state * out_.n_classes_ + c] = found->second;
  }
  for (const auto& [rule, to] : by_rule) {
    const State start = state_of({nfa_.rules()[static_cast<size_t>(rule)]});
    calls_.push_back({static_cast<State>(state), {start, state_of(to)}});
  }
}

void AutomatonBuilder::determinize(NfaState root) {
  seen_.resize(nfa_.size());
  out_.start_ = state_of({root});
  for (size_t s = 0; s < sets_.size(); ++s) expand(s);
}

}  // namespace deltacome::grammar
