// SPDX-License-Identifier: Apache-2.0
#include "engine/constraints.h"

#include <set>

#include "grammar/compile.h"

namespace deltacome {
namespace {

/// States whose masks are made beforehand: structure is the same in every answer.
constexpr size_t kPreparedStates = 256;

/// Equal for equal constraints only: every part is preceded by its length.
std::string key_of(const Constraint& c) {
  std::string out = std::to_string(static_cast<int>(c.kind)) + ' ' + std::to_string(c.max_calls);
  const auto add = [&](const std::string& part) {
    out += ' ' + std::to_string(part.size()) + ':' + part;
  };
  for (const std::string* part : {&c.text, &c.arguments_key, &c.begin, &c.end, &c.separator})
    add(*part);
  for (const std::string& choice : c.choices) add(choice);
  out += '/';
  for (const ToolForm& tool : c.tools) {
    add(tool.name);
    add(tool.parameters);
  }
  return out;
}

grammar::Automaton compile(const Constraint& c) {
  switch (c.kind) {
    case Constraint::Kind::kJsonObject:
      break;
    case Constraint::Kind::kJsonSchema:
      return grammar::compile_json_schema(c.text);
    case Constraint::Kind::kRegex:
      return grammar::compile_regex(c.text);
    case Constraint::Kind::kChoice:
      return grammar::compile_choice(c.choices);
    case Constraint::Kind::kToolCalls: {
      grammar::ToolCalls calls{.tools = {},
                               .arguments_key = c.arguments_key,
                               .begin = c.begin,
                               .end = c.end,
                               .separator = c.separator,
                               .max_calls = c.max_calls};
      for (const ToolForm& tool : c.tools) calls.tools.push_back({tool.name, tool.parameters});
      return grammar::compile_tool_calls(calls);
    }
  }
  return grammar::compile_json_object();
}

}  // namespace

size_t ConstraintCache::Entry::bytes() const {
  size_t n = key.size() + automaton->bytes();
  for (const auto& m : masks) n += m->bytes();
  return n;
}

std::shared_ptr<grammar::TokenMasks> ConstraintCache::get(
    const Constraint& constraint, std::shared_ptr<const grammar::TokenSet> tokens) {
  std::string key = key_of(constraint);
  std::shared_ptr<const grammar::Automaton> automaton;
  const auto find = [&]() -> std::shared_ptr<grammar::TokenMasks> {
    const auto found = by_key_.find(key);
    if (found == by_key_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    automaton = found->second->automaton;
    for (const auto& masks : found->second->masks)
      if (&masks->tokens() == tokens.get()) return masks;
    return nullptr;
  };
  {
    const std::lock_guard lock(mutex_);
    if (auto masks = find()) return masks;
  }
  // Without the lock: the engine thread must not wait for it.
  if (automaton == nullptr)
    automaton = std::make_shared<const grammar::Automaton>(compile(constraint));
  auto made = std::make_shared<grammar::TokenMasks>(automaton, tokens);
  made->prepare(kPreparedStates);
  const std::lock_guard lock(mutex_);
  if (auto masks = find()) return masks;  // another thread was faster
  auto entry = by_key_.find(key);
  if (entry == by_key_.end()) {
    entries_.push_front({std::move(key), automaton, {}});
    entry = by_key_.emplace(entries_.front().key, entries_.begin()).first;
  }
  entry->second->masks.push_back(made);
  drop_old();
  return made;
}

void ConstraintCache::drop_old() {
  size_t bytes = 0;
  std::set<const grammar::TokenSet*> sets;  // some may have no other users any more
  for (auto it = entries_.begin(); it != entries_.end();) {
    bytes += it->bytes();
    for (const auto& masks : it->masks)
      if (sets.insert(&masks->tokens()).second) bytes += masks->tokens().bytes();
    if (bytes <= budget_ || it == entries_.begin()) {
      ++it;
      continue;
    }
    by_key_.erase(it->key);
    it = entries_.erase(it);
  }
}

size_t ConstraintCache::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

}  // namespace deltacome
