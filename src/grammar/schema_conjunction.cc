// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/check.h"
#include "grammar/schema_keywords.h"
#include "grammar/schema_view.h"

namespace deltacome::grammar {
namespace {

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

}  // namespace

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
