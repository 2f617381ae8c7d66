// SPDX-License-Identifier: Apache-2.0
#include "grammar/schema_view.h"

#include <algorithm>

#include "core/check.h"
#include "grammar/limits.h"
#include "grammar/schema_keywords.h"

namespace deltacome::grammar {
namespace {

constexpr int kMaxReferences = 64;     // one after another
constexpr size_t kMaxWays = 1024;      // of anyOf, multiplied by allOf
constexpr size_t kMaxShownBytes = 64;  // of untrusted text in a message

/// The JSON pointer of `part`; false if it is not in `value`.
bool find_pointer(const Json& value, const Json* part, std::string& pointer) {
  if (&value == part) return true;
  if (!value.is_structured()) return false;
  const size_t size = pointer.size();
  for (const auto& [key, child] : value.items()) {
    pointer += '/';
    for (const char c : key) pointer += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
    if (find_pointer(child, part, pointer)) return true;
    pointer.resize(size);
  }
  return false;
}

}  // namespace

std::string shown(std::string_view text) {
  const bool cut = text.size() > kMaxShownBytes;
  std::string out = Json(std::string(text.substr(0, kMaxShownBytes)))
                        .dump(-1, ' ', true, Json::error_handler_t::replace);
  if (cut) out.replace(out.size() - 1, 1, "...\"");
  return out;
}

Json parse_json(std::string_view text, const std::string& where) {
  if (text.size() > kMaxSourceBytes)
    fail(ErrorCode::kInvalidArgument, "{} has {} bytes, at most {} are read", where, text.size(),
         kMaxSourceBytes);
  // The parser takes a zero byte for the end of the text.
  if (text.find('\0') != std::string_view::npos)
    fail(ErrorCode::kInvalidArgument, "{} is not valid JSON: it has a zero byte", where);
  const auto check_depth = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxJsonDepth)
      fail(ErrorCode::kInvalidArgument, "{} is nested more than {} deep", where, kMaxJsonDepth);
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), check_depth);
  } catch (const Json::parse_error& error) {
    fail(ErrorCode::kInvalidArgument, "{} is not valid JSON at byte {}", where, error.byte);
  } catch (const Json::exception&) {
    fail(ErrorCode::kInvalidArgument, "{} is not valid JSON: a number is out of range", where);
  }
}

SchemaDocument::SchemaDocument(std::string_view text, std::string name)
    : name_(std::move(name)), root_(parse_json(text, name_)) {}

void SchemaDocument::bad(const Json& part, std::string_view what) const {
  std::string pointer;
  find_pointer(root_, &part, pointer);
  // The pointer is made of the client's own names.
  fail(ErrorCode::kInvalidArgument, "{} at {}: {}", name_, shown("#" + pointer), what);
}

void SchemaDocument::check_keywords(const Json& schema) const {
  for (const auto& [key, value] : schema.items()) {
    if (is_in(kConstraints, key) || is_in(kCombining, key) || is_in(kAnnotations, key) ||
        key.starts_with("x-"))
      continue;
    if (key == "uniqueItems" && value == false) continue;
    bad(schema, fmt::format("the keyword {} is not supported", shown(key)));
  }
}

const Json& SchemaDocument::resolve(const Json& schema, const std::string& reference) const {
  const auto not_found = [&](const char* why) {
    bad(schema, fmt::format("$ref is {}, {}", shown(reference), why));
  };
  if (!reference.starts_with('#'))
    not_found("expected a place in the same schema, such as \"#/$defs/name\"");
  const Json* at = &root_;
  std::string_view rest = std::string_view(reference).substr(1);
  while (!rest.empty()) {
    if (rest[0] != '/') not_found("expected a JSON pointer after the #");
    rest.remove_prefix(1);
    std::string key;
    const size_t end = std::min(rest.find('/'), rest.size());
    for (size_t i = 0; i < end; ++i) {
      if (rest[i] == '~' && i + 1 < end && (rest[i + 1] == '0' || rest[i + 1] == '1')) {
        key += rest[++i] == '0' ? '~' : '/';
      } else {
        key += rest[i];
      }
    }
    rest.remove_prefix(end);
    const Json* next = nullptr;
    if (at->is_object()) {
      const auto found = at->find(key);
      if (found != at->end()) next = &*found;
    } else if (at->is_array() && !key.empty() && key.size() < 7 &&
               std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; })) {
      const size_t index = std::stoul(key);
      if (index < at->size()) next = &(*at)[index];
    }
    if (next == nullptr) not_found("which is not in the schema");
    at = next;
  }
  return *at;
}

void SchemaDocument::conjoin(const Json& schema, std::vector<Schemas>& ways, int n_references) {
  if (++n_steps_ > kMaxSchemaSteps)
    bad(schema, "the schema is too large when its references are followed");
  if (schema.is_boolean()) {
    if (schema == false) ways.clear();
    return;
  }
  if (!schema.is_object())
    bad(schema, fmt::format("a schema must be an object or a boolean, got {}", schema.type_name()));
  check_keywords(schema);
  if (const auto found = schema.find("$ref"); found != schema.end()) {
    if (!found->is_string()) bad(schema, "$ref must be a string");
    if (n_references >= kMaxReferences)
      bad(schema, "$ref leads to itself, with no object or array between, or through too many");
    conjoin(resolve(schema, found->get_ref<const std::string&>()), ways, n_references + 1);
  }
  const auto list = [&](const char* key) -> const Json* {
    const auto found = schema.find(key);
    if (found == schema.end()) return nullptr;
    if (!found->is_array() || found->empty())
      bad(schema, fmt::format("{} must be a list of schemas", key));
    return &*found;
  };
  if (const Json* all = list("allOf")) {
    for (const Json& part : *all) conjoin(part, ways, n_references);
  }
  // After what it builds on, before its variants: the order of properties.
  const bool constrains = std::ranges::any_of(
      schema.items(), [](const auto& e) { return is_in(kConstraints, e.key()); });
  for (Schemas& way : ways)
    if (constrains && std::ranges::find(way, &schema) == way.end()) way.push_back(&schema);
  for (const char* key : {"anyOf", "oneOf"}) {
    const Json* any = list(key);
    if (any == nullptr) continue;
    std::vector<Schemas> all_ways;
    for (const Json& part : *any) {
      std::vector<Schemas> some = ways;
      conjoin(part, some, n_references);
      all_ways.insert(all_ways.end(), some.begin(), some.end());
      if (all_ways.size() > kMaxWays)
        bad(schema, fmt::format("more than {} alternatives at one place", kMaxWays));
    }
    ways = std::move(all_ways);
  }
}

std::vector<Schemas> SchemaDocument::alternatives(const Schemas& schemas) {
  std::vector<Schemas> ways = {{}};
  for (const Json* schema : schemas) conjoin(*schema, ways, 0);
  return ways;
}

}  // namespace deltacome::grammar
