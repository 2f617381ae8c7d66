// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/automaton.h"

/// What a client may constrain an answer by, as automata. All texts are untrusted: each function
/// throws kInvalidArgument, with a sentence for the client, for what is malformed, not supported
/// (docs/grammar.md) or beyond limits.h. Thread-safe.
namespace deltacome::grammar {

/// JSON text for which the schema holds.
Automaton compile_json_schema(std::string_view schema);
Automaton compile_json_object();
/// Text that the expression matches as a whole.
Automaton compile_regex(std::string_view pattern);
Automaton compile_choice(std::span<const std::string> choices);

struct Tool {
  std::string name;
  std::string parameters;  // the JSON Schema of its arguments; empty: any object
};

/// Calls of tools: `begin` {"name": NAME, ARGUMENTS_KEY: {...}} `end`, one to max_calls times with
/// `separator` between.
struct ToolCalls {
  std::vector<Tool> tools;  // at least one; the call is of any of them
  std::string arguments_key = "arguments";
  std::string begin = {}, end = {}, separator = {};
  int max_calls = 1;
};
Automaton compile_tool_calls(const ToolCalls& calls);

}  // namespace deltacome::grammar
