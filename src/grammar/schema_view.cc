// SPDX-License-Identifier: Apache-2.0
#include "grammar/schema_view.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/check.h"
#include "grammar/limits.h"

namespace deltacome::grammar {
namespace {

constexpr int kMaxReferences = 64;     // one after another
constexpr size_t kMaxWays = 1024;      // of anyOf, multiplied by allOf
constexpr size_t kMaxShownBytes = 64;  // of untrusted text in a message

constexpr std::array kAnnotations = {"title",         "description", "default",    "examples",
                                     "example",       "deprecated",  "readOnly",   "writeOnly",
                                     "$comment",      "$schema",     "$id",        "$anchor",
                                     "discriminator", "$defs",       "definitions"};
constexpr std::array kCombining = {"$ref", "allOf", "anyOf", "oneOf"};
constexpr std::array kConstraints = {
    "type",    "enum",        "const",    "properties", "required",         "additionalProperties",
    "items",   "prefixItems", "minItems", "maxItems",   "minLength",        "maxLength",
    "pattern", "format",      "minimum",  "maximum",    "exclusiveMinimum", "exclusiveMaximum"};

template <class List>
bool is_in(const List& list, std::string_view key) {
  return std::ranges::any_of(list, [&](const char* k) { return key == k; });
}

/// Which types a constraint is about.
std::string_view type_of_keyword(std::string_view key) {
  if (key == "properties" || key == "required" || key == "additionalProperties") return "object";
  if (key == "items" || key == "prefixItems" || key == "minItems" || key == "maxItems")
    return "array";
  if (key == "minLength" || key == "maxLength" || key == "pattern" || key == "format")
    return "string";
  if (key.starts_with("min") || key.starts_with("max") || key.starts_with("exclusive"))
    return "number";
  return {};
}

constexpr std::array kTypes = {"object", "array", "string", "number", "integer", "boolean", "null"};

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

const Json* Conjunction::first_with(const char* keyword) const {
  for (const Json* schema : schemas_)
    if (schema->contains(keyword)) return schema;
  return nullptr;
}

void Conjunction::bad(const char* keyword, std::string_view what) const {
  document_.bad(*first_with(keyword), fmt::format("{} {}", keyword, what));
}

const Json* Conjunction::single(const char* keyword) const {
  const Json* value = nullptr;
  for (const Json* schema : schemas_) {
    const auto found = schema->find(keyword);
    if (found == schema->end()) continue;
    if (value != nullptr && *value != *found)
      document_.bad(*schema, fmt::format("{} differs between schemas that must hold together, "
                                         "which is not supported",
                                         keyword));
    value = &*found;
  }
  return value;
}

std::optional<int64_t> Conjunction::count(const char* keyword, bool largest) const {
  std::optional<int64_t> out;
  for (const Json* schema : schemas_) {
    const auto found = schema->find(keyword);
    if (found == schema->end()) continue;
    const double value = found->is_number() ? found->get<double>() : -1;
    if (value < 0 || value != std::floor(value))
      document_.bad(*schema, fmt::format("{} must be a non-negative integer", keyword));
    const auto n = static_cast<int64_t>(std::min(value, 1e15));
    out = !out ? n : largest ? std::max(*out, n) : std::min(*out, n);
  }
  return out;
}

bool is_of_type(const Json& value, std::string_view type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "number") return value.is_number();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (value.is_number_integer()) return true;
  return value.is_number() && value.get<double>() == std::floor(value.get<double>());
}

std::vector<std::string> Conjunction::types() const {
  std::optional<std::set<std::string>> allowed;
  std::set<std::string> implied;
  for (const Json* schema : schemas_) {
    for (const auto& [key, value] : schema->items()) {
      const std::string_view type = type_of_keyword(key);
      if (!type.empty()) implied.emplace(type);
    }
    const auto found = schema->find("type");
    if (found == schema->end()) continue;
    std::set<std::string> these;
    for (const Json& name : found->is_array() ? *found : Json::array({*found})) {
      if (!name.is_string() || !is_in(kTypes, name.get_ref<const std::string&>()))
        document_.bad(*schema,
                      "type must be one or a list of object, array, string, number, "
                      "integer, boolean, null");
      these.insert(name.get<std::string>());
    }
    if (allowed) {
      // An integer is a number.
      std::set<std::string> both;
      for (const std::string& t : *allowed) {
        if (these.contains(t) || (t == "integer" && these.contains("number"))) both.insert(t);
        if (t == "number" && these.contains("integer")) both.insert("integer");
      }
      these = std::move(both);
    }
    allowed = std::move(these);
  }
  if (!allowed && !implied.empty()) allowed = std::move(implied);
  std::vector<std::string> out;
  for (const char* type : kTypes) {
    if (std::string_view(type) == "integer"
            ? allowed && allowed->contains(type) && !allowed->contains("number")
            : !allowed || allowed->contains(type))
      out.emplace_back(type);
  }
  return out;
}

std::optional<Schemas> Conjunction::values() const {
  std::optional<Schemas> out;
  const auto keep = [&](const Schemas& these) {
    if (!out) {
      out = these;
      return;
    }
    std::erase_if(*out, [&](const Json* v) {
      return std::ranges::none_of(these, [&](const Json* t) { return *t == *v; });
    });
  };
  for (const Json* schema : schemas_) {
    if (const auto found = schema->find("const"); found != schema->end()) keep({&*found});
    if (const auto found = schema->find("enum"); found != schema->end()) {
      if (!found->is_array() || found->empty())
        document_.bad(*schema, "enum must be a list of values");
      Schemas these;
      for (const Json& value : *found) these.push_back(&value);
      keep(these);
    }
  }
  if (!out) return out;
  for (const Json* schema : schemas_) {
    for (const auto& [key, value] : schema->items()) {
      if (is_in(kConstraints, key) && key != "type" && key != "enum" && key != "const")
        document_.bad(*schema, fmt::format("{} beside enum or const is not supported", key));
    }
  }
  const std::vector<std::string> allowed = types();
  std::erase_if(*out, [&](const Json* v) {
    return std::ranges::none_of(allowed, [&](const std::string& t) { return is_of_type(*v, t); });
  });
  return out;
}

}  // namespace deltacome::grammar
