// SPDX-License-Identifier: Apache-2.0
#include "io/config_fields.h"

#include <algorithm>

#include <utility>

#include "core/check.h"

namespace deltacome {

using nlohmann::json;

ConfigFields::ConfigFields(const json& object, std::string where)
    : object_(object), where_(std::move(where)) {}

const json* ConfigFields::find(const char* key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

const json& ConfigFields::require(const char* key) const {
  const json* value = find(key);
  if (value == nullptr) fail(ErrorCode::kCorrupt, "{}: {} is missing", where_, key);
  return *value;
}

int64_t ConfigFields::integer(const char* key, int64_t low, int64_t high) const {
  return check_integer(key, require(key), low, high);
}

int64_t ConfigFields::integer_or(const char* key, int64_t absent, int64_t low, int64_t high) const {
  const json* value = find(key);
  return value == nullptr ? absent : check_integer(key, *value, low, high);
}

int64_t ConfigFields::check_integer(const char* key, const json& value, int64_t low,
                                    int64_t high) const {
  // An unsigned value beyond int64 must not wrap in get<int64_t>().
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= static_cast<uint64_t>(high)
                        : value.is_number_integer();
  if (!fits || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    reject(key, value, fmt::format("an integer from {} to {}", low, high));
  }
  return value.get<int64_t>();
}

double ConfigFields::number(const char* key, double low, double high) const {
  const json& value = require(key);
  if (!value.is_number() || !(value.get<double>() >= low && value.get<double>() <= high)) {
    reject(key, value, fmt::format("a number from {} to {}", low, high));
  }
  return value.get<double>();
}

double ConfigFields::number_or(const char* key, double absent, double low, double high) const {
  return find(key) == nullptr ? absent : number(key, low, high);
}

bool ConfigFields::flag_or(const char* key, bool absent) const {
  const json* value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) reject(key, *value, "true or false");
  return value->get<bool>();
}

std::string ConfigFields::text_or(const char* key, const std::string& absent) const {
  const json* value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_string()) reject(key, *value, "a string");
  return value->get<std::string>();
}

std::vector<std::string> ConfigFields::texts_or_empty(const char* key) const {
  const json* values = find(key);
  if (values == nullptr) return {};
  const auto is_text = [](const json& v) {
    return v.is_string() && !v.get_ref<const std::string&>().empty();
  };
  if (!values->is_array() || !std::ranges::all_of(*values, is_text))
    reject(key, *values, "a list of names");
  return values->get<std::vector<std::string>>();
}

void ConfigFields::reject(const char* key, const json& value, const std::string& expected) const {
  fail(ErrorCode::kCorrupt, "{}: {} is {}, expected {}", where_, key, describe(value), expected);
}

}  // namespace deltacome
