// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>
#include <unordered_map>

#include "core/check.h"
#include "grammar/limits.h"
#include "grammar/schema_compiler.h"

namespace deltacome::grammar {
namespace {

const Json kAnything = true;
constexpr int kMaxWrittenItems = 4;  // in place; more of them become calls of one rule

struct Property {
  std::string name;
  Schemas schemas;
  bool required = false;
};

/// Properties in the order of the schemas, then those that are only required.
std::vector<Property> properties_of(const Conjunction& c) {
  std::vector<Property> out;
  std::unordered_map<std::string, size_t> index;
  const auto at = [&](const std::string& name) -> Property& {
    const auto [found, is_new] = index.emplace(name, out.size());
    if (is_new) out.push_back({.name = name, .schemas = {}});
    return out[found->second];
  };
  for (const Json* schema : c.schemas()) {
    const auto found = schema->find("properties");
    if (found == schema->end()) continue;
    if (!found->is_object()) c.bad("properties", "must be an object");
    for (const auto& [name, value] : found->items()) at(name).schemas.push_back(&value);
  }
  for (const Json* schema : c.schemas()) {
    const auto found = schema->find("required");
    if (found == schema->end()) continue;
    if (!found->is_array()) c.bad("required", "must be a list of names");
    for (const Json& name : *found) {
      if (!name.is_string()) c.bad("required", "must be a list of names");
      at(name.get<std::string>()).required = true;
    }
  }
  // What a schema does not name has to satisfy its additionalProperties.
  for (const Json* schema : c.schemas()) {
    const auto others = schema->find("additionalProperties");
    if (others == schema->end()) continue;
    const auto own = schema->find("properties");
    for (Property& p : out) {
      if (own == schema->end() || !own->contains(p.name)) p.schemas.push_back(&*others);
    }
  }
  return out;
}

}  // namespace

/// After the {. Before each property either nothing was written yet (`empty`), or some were
/// (`some`).
void SchemaCompiler::write_object(NfaState start, const Conjunction& c) {
  constexpr NfaState kNone = -1;
  NfaState empty = text_.space(start), some = kNone;
  const auto next_key = [&] {
    const NfaState key = nfa_.add_state();
    if (empty != kNone) nfa_.epsilon(empty, key);
    if (some != kNone) nfa_.epsilon(text_.comma(some), key);
    return key;
  };
  const std::vector<Property> properties = properties_of(c);
  std::vector<std::string> names;
  for (const Property& p : properties) {
    names.push_back(p.name);
    const NfaState after = nfa_.add_state();
    const NfaState value = text_.colon(text_.constant(next_key(), p.name));
    nfa_.epsilon(read(value, p.schemas), after);
    if (p.required) {
      empty = kNone;
    } else if (some != kNone) {
      nfa_.epsilon(some, after);
    }
    some = after;
  }
  Schemas others;
  for (const Json* schema : c.schemas()) {
    const auto found = schema->find("additionalProperties");
    if (found != schema->end()) others.push_back(&*found);
  }
  if (!others.empty()) {
    const NfaState after = nfa_.add_state(), key = next_key();
    NfaState key_read = nfa_.add_state();
    if (names.empty()) {
      key_read = text_.string(key);
    } else {
      read_other_key(nfa_.literal(key, "\""), names, key_read);
    }
    nfa_.epsilon(read(text_.colon(key_read), others), after);
    nfa_.epsilon(text_.comma(after), key);
    if (some != kNone) nfa_.epsilon(some, after);
    some = after;
  }
  const NfaState end = nfa_.add_state();
  nfa_.accept(end);
  if (empty != kNone) nfa_.bytes(empty, ByteSet::of('}'), end);
  if (some != kNone) nfa_.bytes(text_.space(some), ByteSet::of('}'), end);
}

/// A key that is none of `names`, with its closing quote. Its characters have one spelling each,
/// so that it cannot be one of them in disguise.
void SchemaCompiler::read_other_key(NfaState from, const std::vector<std::string>& names,
                                    NfaState to) {
  const NfaState different = nfa_.add_state();
  read_code_points(nfa_, different, CodePoints::all(), Spelling::kJsonString, different);
  nfa_.bytes(different, ByteSet::of('"'), to);
  std::vector<std::u32string> rest;
  for (const std::string& name : names) rest.push_back(characters(name));
  std::ranges::sort(rest);
  // By common beginnings: [first, last) have the first n characters in common, which were read.
  struct Beginning {
    NfaState read;
    size_t first, last, n;
  };
  std::vector<Beginning> open = {{from, 0, rest.size(), 0}};
  while (!open.empty()) {
    const auto [read, first, last, n] = open.back();
    open.pop_back();
    CodePoints next;
    bool is_name = false;
    for (size_t i = first; i < last;) {
      if (rest[i].size() == n) {
        is_name = true;
        ++i;
        continue;
      }
      const char32_t c = rest[i][n];
      size_t end = i;
      while (end < last && rest[end].size() > n && rest[end][n] == c) ++end;
      next.add(c, c);
      const NfaState after = nfa_.add_state();
      read_code_points(nfa_, read, {{c, c}}, Spelling::kJsonString, after);
      open.push_back({after, i, end, n + 1});
      i = end;
    }
    read_code_points(nfa_, read, next.complement(), Spelling::kJsonString, different);
    if (!is_name) nfa_.bytes(read, ByteSet::of('"'), to);
  }
}

/// After the [.
void SchemaCompiler::write_array(NfaState start, const Conjunction& c) {
  const int64_t least = c.count("minItems", true).value_or(0);
  const std::optional<int64_t> most = c.count("maxItems", false);
  if (least > kMaxRepeat)
    c.bad("minItems", fmt::format("is {}, at most {} is supported", least, kMaxRepeat));
  const Json* first_items = c.single("prefixItems");
  const Json* items = c.single("items");
  if (first_items != nullptr && !first_items->is_array())
    c.bad("prefixItems", "must be a list of schemas");
  if (items != nullptr && items->is_array())
    c.bad("items", "must be a schema; a list of them is called prefixItems");
  for (const Json* schema : c.schemas()) {
    if (first_items != nullptr && items != nullptr &&
        schema->contains("items") != schema->contains("prefixItems"))
      c.bad("prefixItems",
            "and items in different schemas that must hold together is not "
            "supported");
  }
  const auto n_first = static_cast<int64_t>(first_items == nullptr ? 0 : first_items->size());
  const bool more = items != nullptr || first_items == nullptr;
  const Schemas item = {items == nullptr ? &kAnything : items};
  // Items are counted up to here; a shorter bound than asked for is a bound too.
  int64_t n_counted = std::max({least, n_first, int64_t{1}});
  if (most) n_counted = std::min<int64_t>(*most, kMaxRepeat);
  if (!more) n_counted = std::min(n_counted, n_first);
  const NfaState end = nfa_.add_state();
  nfa_.accept(end);
  NfaState at = text_.space(start);
  if (least == 0) nfa_.bytes(at, ByteSet::of(']'), end);
  const bool by_rule = n_counted - n_first > kMaxWrittenItems;
  const auto read_item = [&](NfaState from) {
    if (!by_rule) return read(from, item);
    const NfaState to = nfa_.add_state();
    nfa_.call(from, later('v', {item}), to);
    return to;
  };
  for (int64_t n = 1; n <= n_counted; ++n) {
    if (n > 1) at = text_.comma(at);
    at = n <= n_first ? read(at, {&(*first_items)[static_cast<size_t>(n - 1)]}) : read_item(at);
    if (n >= least) nfa_.bytes(text_.space(at), ByteSet::of(']'), end);
  }
  if (most || !more) return;
  const NfaState loop = nfa_.add_state();
  nfa_.epsilon(at, loop);
  nfa_.epsilon(read_item(text_.comma(loop)), loop);
  nfa_.bytes(text_.space(loop), ByteSet::of(']'), end);
}

}  // namespace deltacome::grammar
