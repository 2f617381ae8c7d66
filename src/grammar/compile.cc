// SPDX-License-Identifier: Apache-2.0
#include "grammar/compile.h"

#include "core/check.h"
#include "grammar/json_text.h"
#include "grammar/limits.h"
#include "grammar/regex.h"
#include "grammar/schema_compiler.h"

namespace deltacome::grammar {
namespace {

constexpr int kMaxCalls = 64;
constexpr size_t kMaxTools = 256;

/// `read` writes the whole text from a state and returns the state after it.
template <class Read>
Automaton compile(const Read& read) {
  Nfa nfa;
  const NfaState start = nfa.add_state();
  nfa.accept(read(nfa, start));
  return Automaton(nfa, start);
}

void check_size(size_t n_bytes, const char* what) {
  if (n_bytes > kMaxSourceBytes)
    fail(ErrorCode::kInvalidArgument, "{} have {} bytes, at most {} are read", what, n_bytes,
         kMaxSourceBytes);
}

}  // namespace

Automaton compile_json_schema(std::string_view schema) {
  SchemaDocument document(schema, "the JSON schema");
  return compile([&](Nfa& nfa, NfaState start) {
    JsonText text(nfa);
    return SchemaCompiler(document, text).read_root(start);
  });
}

Automaton compile_json_object() {
  return compile([](Nfa& nfa, NfaState start) { return JsonText(nfa).any_object(start); });
}

Automaton compile_regex(std::string_view pattern) {
  const Regex regex = Regex::parse(pattern, "regex");
  return compile(
      [&](Nfa& nfa, NfaState start) { return regex.read_match(nfa, start, Spelling::kPlain); });
}

Automaton compile_choice(std::span<const std::string> choices) {
  if (choices.empty() || choices.size() > kMaxChoices)
    fail(ErrorCode::kInvalidArgument, "choice has {} texts, expected 1 to {}", choices.size(),
         kMaxChoices);
  size_t n_bytes = 0;
  for (size_t i = 0; i < choices.size(); ++i) {
    check_size(n_bytes += choices[i].size(), "the texts of choice");
    check_utf8(choices[i], fmt::format("choice {}", i));
  }
  return compile([&](Nfa& nfa, NfaState start) {
    const NfaState end = nfa.add_state();
    for (const std::string& choice : choices) nfa.epsilon(nfa.literal(start, choice), end);
    return end;
  });
}

Automaton compile_tool_calls(const ToolCalls& calls) {
  if (calls.tools.empty() || calls.tools.size() > kMaxTools)
    fail(ErrorCode::kInvalidArgument, "there are {} tools to call, expected 1 to {}",
         calls.tools.size(), kMaxTools);
  if (calls.max_calls < 1 || calls.max_calls > kMaxCalls)
    fail(ErrorCode::kInvalidArgument, "at most {} calls are asked for, expected 1 to {}",
         calls.max_calls, kMaxCalls);
  size_t n_bytes = 0;
  for (const std::string* literal :
       {&calls.arguments_key, &calls.begin, &calls.end, &calls.separator}) {
    check_size(n_bytes += literal->size(), "the texts around a tool call");
    check_utf8(*literal, "a text around a tool call");
  }
  for (const Tool& tool : calls.tools) {
    check_size(n_bytes += tool.name.size() + tool.parameters.size(), "the tools");
    check_utf8(tool.name, "the name of a tool");
  }
  return compile([&](Nfa& nfa, NfaState start) {
    JsonText text(nfa);
    const NfaState call_start = nfa.add_state();
    const NfaState open = text.space(nfa.literal(nfa.literal(call_start, calls.begin), "{"));
    const NfaState name = text.colon(text.constant(open, "name"));
    const NfaState named = nfa.add_state();
    for (const Tool& tool : calls.tools) {
      NfaState at = text.comma(text.constant(name, tool.name));
      at = text.colon(text.constant(at, calls.arguments_key));
      if (tool.parameters.empty()) {
        at = text.any_object(at);
      } else {
        SchemaDocument document(tool.parameters,
                                fmt::format("the parameters of tool {}", shown(tool.name)));
        at = SchemaCompiler(document, text).read_root(at);
      }
      nfa.epsilon(at, named);
    }
    nfa.accept(nfa.literal(nfa.literal(text.space(named), "}"), calls.end));
    const RuleId call = nfa.add_rule(call_start);
    const NfaState end = nfa.add_state();
    NfaState at = start;
    for (int i = 0; i < calls.max_calls; ++i) {
      if (i > 0) at = nfa.literal(at, calls.separator);
      const NfaState after = nfa.add_state();
      nfa.call(at, call, after);
      nfa.epsilon(after, end);
      at = after;
    }
    return end;
  });
}

}  // namespace deltacome::grammar
