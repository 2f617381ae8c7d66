// SPDX-License-Identifier: Apache-2.0
// Values and the queue of rules; schema_containers.cc has objects and arrays.
#include "grammar/schema_compiler.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "grammar/formats.h"
#include "grammar/limits.h"
#include "grammar/numbers.h"
#include "grammar/regex.h"

namespace deltacome::grammar {

NfaState SchemaCompiler::read_root(NfaState from) {
  const NfaState to = read(from, {&document_.root()});
  finish_rules();
  return to;
}

/// Rules are written one after another, not inside of each other: schemas may nest and recur.
void SchemaCompiler::finish_rules() {
  while (!unwritten_.empty()) {
    const Rule rule = std::move(unwritten_.back());
    unwritten_.pop_back();
    for (const Schemas& way : rule.ways) {
      const Conjunction c(document_, way);
      if (rule.kind == '{') {
        write_object(rule.start, c);
      } else if (rule.kind == '[') {
        write_array(rule.start, c);
      } else {
        nfa_.accept(read(rule.start, way));
      }
    }
  }
}

RuleId SchemaCompiler::later(char kind, const Ways& ways) {
  const auto [found, is_new] = rules_.emplace(std::pair(kind, ways), 0);
  if (is_new) {
    const NfaState start = nfa_.add_state();
    found->second = nfa_.add_rule(start);
    unwritten_.push_back({kind, ways, start});
  }
  return found->second;
}

/// All objects become one rule, so that alternatives that begin alike are read as one as long as
/// they do; and so do all arrays.
NfaState SchemaCompiler::read(NfaState from, const Schemas& schemas) {
  const NfaState to = nfa_.add_state();
  Containers containers;
  for (const Schemas& way : document_.alternatives(schemas)) {
    if (way.empty()) {
      nfa_.epsilon(text_.any_value(from), to);
    } else {
      read_plain(from, Conjunction(document_, way), containers, to);
    }
  }
  if (!containers.objects.empty())
    nfa_.call(nfa_.literal(from, "{"), later('{', containers.objects), to);
  if (!containers.arrays.empty())
    nfa_.call(nfa_.literal(from, "["), later('[', containers.arrays), to);
  return to;
}

void SchemaCompiler::read_plain(NfaState from, const Conjunction& c, Containers& containers,
                                NfaState to) {
  if (const std::optional<Schemas> values = c.values()) {
    for (const Json* value : *values) nfa_.epsilon(read_constant(from, *value), to);
    return;
  }
  for (const std::string& type : c.types()) {
    NfaState end = 0;
    if (type == "object") {
      if (c.has("properties") || c.has("required") || c.has("additionalProperties")) {
        containers.objects.push_back(c.schemas());
        continue;
      }
      end = text_.any_object(from);
    } else if (type == "array") {
      if (c.has("items") || c.has("prefixItems") || c.has("minItems") || c.has("maxItems")) {
        containers.arrays.push_back(c.schemas());
        continue;
      }
      end = text_.any_array(from);
    } else if (type == "string") {
      end = read_string(from, c);
    } else if (type == "boolean") {
      nfa_.epsilon(nfa_.literal(from, "true"), to);
      end = nfa_.literal(from, "false");
    } else if (type == "null") {
      end = nfa_.literal(from, "null");
    } else {
      end = read_number(from, c, type == "integer");
    }
    nfa_.epsilon(end, to);
  }
}

NfaState SchemaCompiler::read_constant(NfaState from, const Json& value) {
  if (value.is_string()) return text_.constant(from, value.get_ref<const std::string&>());
  if (!value.is_structured()) return nfa_.literal(from, value.dump());
  from = nfa_.literal(from, value.is_object() ? "{" : "[");
  from = text_.space(from);
  bool first = true;
  for (const auto& [key, child] : value.items()) {
    if (!std::exchange(first, false)) from = text_.comma(from);
    if (value.is_object()) from = text_.colon(text_.constant(from, key));
    from = read_constant(from, child);
  }
  if (!first) from = text_.space(from);
  return nfa_.literal(from, value.is_object() ? "}" : "]");
}

NfaState SchemaCompiler::read_string(NfaState from, const Conjunction& c) {
  const std::optional<int64_t> least = c.count("minLength", true);
  const std::optional<int64_t> most = c.count("maxLength", false);
  const Json* pattern = c.single("pattern");
  const Json* format = c.single("format");
  if (int{least || most} + int{pattern != nullptr} + int{format != nullptr} > 1) {
    const char* first = pattern != nullptr ? "pattern" : "format";
    c.bad(first,
          "together with minLength, maxLength or another of pattern and format is not "
          "supported");
  }
  if (pattern == nullptr && format == nullptr) {
    if (least && *least > kMaxRepeat)
      c.bad("minLength", fmt::format("is {}, at most {} is supported", *least, kMaxRepeat));
    // A shorter bound than asked for is a bound too.
    const auto bound = [](int64_t n) { return static_cast<int>(std::min<int64_t>(n, kMaxRepeat)); };
    const int at_least = bound(least.value_or(0)), at_most = most ? bound(*most) : -1;
    if (most && at_least > at_most) return nfa_.add_state();  // no such string
    return text_.string(from, at_least, at_most);
  }
  const char* keyword = pattern != nullptr ? "pattern" : "format";
  const Json& value = pattern != nullptr ? *pattern : *format;
  if (!value.is_string()) c.bad(keyword, "must be a string");
  const std::string& text = value.get_ref<const std::string&>();
  const NfaState open = nfa_.literal(from, "\"");
  if (pattern != nullptr) {
    const Regex regex = Regex::parse(text, fmt::format("pattern {}", shown(text)));
    return nfa_.literal(regex.read_containing(nfa_, open, Spelling::kJsonString), "\"");
  }
  const char* known = format_pattern(text);
  if (known == nullptr)
    c.bad("format", fmt::format("is {}, supported are {}", shown(text), known_formats()));
  const Regex regex = Regex::parse(known, "format");
  return nfa_.literal(regex.read_match(nfa_, open, Spelling::kJsonString), "\"");
}

NfaState SchemaCompiler::read_number(NfaState from, const Conjunction& c, bool integer) {
  NumberBounds bounds;
  // The strictest of all bounds below, then of all above.
  const auto strictest = [&](const char* inclusive, const char* exclusive, bool below,
                             std::optional<int64_t>& bound, bool& excluded) {
    std::optional<double> value;
    for (const char* keyword : {inclusive, exclusive}) {
      for (const Json* schema : c.schemas()) {
        const auto found = schema->find(keyword);
        if (found == schema->end()) continue;
        if (!found->is_number()) c.bad(keyword, "must be a number");
        const auto given = found->get<double>();
        const bool excludes = keyword == exclusive;
        if (!value || (below ? given > *value : given < *value) || (given == *value && excludes)) {
          value = given;
          excluded = excludes;
        }
      }
    }
    if (!value) return;
    const double whole = below ? std::ceil(*value) : std::floor(*value);
    if (whole != *value) {
      if (!integer)
        c.bad(c.has(inclusive) ? inclusive : exclusive,
              "of numbers that need not be integers must be an integer");
      excluded = false;
    }
    if (std::abs(whole) > 1e17) {  // doubles hold no integers any more
      excluded = false;
      if ((whole < 0) == below) return;
      c.bad(c.has(inclusive) ? inclusive : exclusive, "is beyond 1e17, which is not supported");
    }
    bound = static_cast<int64_t>(whole);
    if (integer && excluded) *bound += below ? 1 : -1;
  };
  strictest("minimum", "exclusiveMinimum", true, bounds.first, bounds.excludes_first);
  strictest("maximum", "exclusiveMaximum", false, bounds.last, bounds.excludes_last);
  if (integer) return read_integer(nfa_, from, bounds);
  if (!bounds.first && !bounds.last) return text_.number(from);
  return grammar::read_number(nfa_, from, bounds);
}

}  // namespace deltacome::grammar
