// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string_view>

#include "grammar/code_points.h"

namespace deltacome::grammar {

/// The pieces of JSON text, written into an Nfa; each reads its piece from a state and returns the
/// state after it. Rules that several places share are made once.
class JsonText {
 public:
  explicit JsonText(Nfa& nfa) : nfa_(nfa) {}

  Nfa& nfa() noexcept { return nfa_; }

  /// What may stand after { [ , and before } ]: nothing, a space, or a line break and an indent of
  /// up to kMaxIndent spaces or half as many tabs.
  NfaState space(NfaState from);
  NfaState colon(NfaState from);  // and at most one space
  NfaState comma(NfaState from);  // and space()

  /// A string of so many characters; most -1: no bound. Any escape of JSON that stands for a scalar
  /// value may be used.
  NfaState string(NfaState from, int least = 0, int most = -1);
  /// Exactly this string, by its one spelling (Spelling::kJsonString).
  NfaState constant(NfaState from, std::string_view text);
  NfaState number(NfaState from);
  NfaState any_value(NfaState from);
  NfaState any_object(NfaState from);
  NfaState any_array(NfaState from);

 private:
  RuleId indent();
  RuleId escape();
  RuleId string_rest(int least, int most);
  void character(NfaState from, NfaState to);
  RuleId object_rest();
  RuleId array_rest();

  Nfa& nfa_;
  std::optional<RuleId> indent_, escape_, object_rest_, array_rest_;
  std::map<std::pair<int, int>, RuleId> strings_;
  std::map<int, NfaState> at_most_;  // within a string: so many characters may follow, then "
};

}  // namespace deltacome::grammar
