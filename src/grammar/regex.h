// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "grammar/code_points.h"

namespace deltacome::grammar {

/// A regular expression of the subset that docs/grammar.md lists: what ECMAScript and Python mean
/// by it is the same. It describes a language; nothing is captured.
class Regex {
 public:
  /// Throws kInvalidArgument, with the byte where it goes wrong; `where` begins the message.
  static Regex parse(std::string_view pattern, const std::string& where);

  /// Reads a text that matches as a whole, from a state; returns the state after it.
  NfaState read_match(Nfa& nfa, NfaState from, Spelling spelling) const;
  /// Reads a text in which it matches somewhere, as anchors allow.
  NfaState read_containing(Nfa& nfa, NfaState from, Spelling spelling) const;

 private:
  friend class RegexParser;
  struct Node {
    enum class Kind { kSequence, kEither, kCharacter, kRepeat };
    Kind kind;
    CodePoints set = {};                // kCharacter
    std::vector<size_t> children = {};  // kRepeat: one
    int least = 0, most = 0;            // kRepeat; most -1: no bound
  };
  struct Alternative {
    size_t node;
    bool from_start, to_end;  // ^, $
  };
  NfaState read(Nfa& nfa, NfaState from, size_t node, Spelling spelling) const;

  std::vector<Node> nodes_;
  std::vector<Alternative> alternatives_;  // of the whole
};

/// Any number of any characters.
NfaState read_any_text(Nfa& nfa, NfaState from, Spelling spelling);

}  // namespace deltacome::grammar
