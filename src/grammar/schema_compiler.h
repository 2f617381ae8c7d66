// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "grammar/json_text.h"
#include "grammar/schema_view.h"

namespace deltacome::grammar {

/// Writes one schema into an Nfa. Objects and arrays become rules, so that schemas may be
/// recursive; everything else is written in place.
class SchemaCompiler {
 public:
  /// `document` and `text` outlive it.
  SchemaCompiler(SchemaDocument& document, JsonText& text)
      : document_(document), text_(text), nfa_(text.nfa()) {}

  /// Reads a value for which the whole document holds; everything that it calls is complete then.
  /// Throws kInvalidArgument.
  NfaState read_root(NfaState from);

 private:
  using Ways = std::vector<Schemas>;  // any of which may hold
  struct Containers {
    Ways objects, arrays;
  };

  NfaState read(NfaState from, const Schemas& schemas);
  void read_plain(NfaState from, const Conjunction& c, Containers& containers, NfaState to);
  NfaState read_constant(NfaState from, const Json& value);
  NfaState read_string(NfaState from, const Conjunction& c);
  NfaState read_number(NfaState from, const Conjunction& c, bool integer);
  RuleId later(char kind, const Ways& ways);
  void finish_rules();
  void write_object(NfaState start, const Conjunction& c);
  void write_array(NfaState start, const Conjunction& c);
  void read_other_key(NfaState from, const std::vector<std::string>& names, NfaState to);

  SchemaDocument& document_;
  JsonText& text_;
  Nfa& nfa_;
  struct Rule {
    char kind;  // the bracket that it begins after, or v: a value
    Ways ways;
    NfaState start;
  };
  std::map<std::pair<char, Ways>, RuleId> rules_;
  std::vector<Rule> unwritten_;
};

}  // namespace deltacome::grammar
