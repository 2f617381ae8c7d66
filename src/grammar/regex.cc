// SPDX-License-Identifier: Apache-2.0
#include "grammar/regex.h"

namespace deltacome::grammar {

NfaState Regex::read(Nfa& nfa, NfaState from, size_t index, Spelling spelling) const {
  const Node& node = nodes_[index];
  switch (node.kind) {
    case Node::Kind::kSequence:
      for (const size_t child : node.children) from = read(nfa, from, child, spelling);
      return from;
    case Node::Kind::kEither: {
      const NfaState to = nfa.add_state();
      for (const size_t child : node.children) nfa.epsilon(read(nfa, from, child, spelling), to);
      return to;
    }
    case Node::Kind::kCharacter: {
      const NfaState to = nfa.add_state();
      read_code_points(nfa, from, node.set, spelling, to);
      return to;
    }
    case Node::Kind::kRepeat:
      break;
  }
  const auto once = [&] { return read(nfa, from, node.children[0], spelling); };
  for (int i = 0; i < node.least; ++i) from = once();
  if (node.most < 0) {
    const NfaState loop = nfa.add_state();  // of its own: `from` may have other ways out
    nfa.epsilon(from, loop);
    from = loop;
    nfa.epsilon(once(), loop);
    const NfaState to = nfa.add_state();  // and so may what follows have ways back
    nfa.epsilon(loop, to);
    return to;
  }
  const NfaState to = nfa.add_state();
  for (int i = node.least; i < node.most; ++i) {
    nfa.epsilon(from, to);
    from = once();
  }
  nfa.epsilon(from, to);
  return to;
}

NfaState Regex::read_match(Nfa& nfa, NfaState from, Spelling spelling) const {
  const NfaState to = nfa.add_state();
  for (const Alternative& a : alternatives_) {
    const NfaState start = nfa.add_state();
    nfa.epsilon(from, start);
    nfa.epsilon(read(nfa, start, a.node, spelling), to);
  }
  return to;
}

NfaState Regex::read_containing(Nfa& nfa, NfaState from, Spelling spelling) const {
  const NfaState to = nfa.add_state();
  for (const Alternative& a : alternatives_) {
    NfaState at = nfa.add_state();
    nfa.epsilon(from, at);
    if (!a.from_start) at = read_any_text(nfa, at, spelling);
    at = read(nfa, at, a.node, spelling);
    if (!a.to_end) at = read_any_text(nfa, at, spelling);
    nfa.epsilon(at, to);
  }
  return to;
}

NfaState read_any_text(Nfa& nfa, NfaState from, Spelling spelling) {
  const NfaState loop = nfa.add_state(), to = nfa.add_state();
  nfa.epsilon(from, loop);
  read_code_points(nfa, loop, CodePoints::all(), spelling, loop);
  nfa.epsilon(loop, to);
  return to;
}

}  // namespace deltacome::grammar
