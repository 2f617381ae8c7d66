// SPDX-License-Identifier: Apache-2.0
#include "server/json_fields.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace deltacome::server {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr int kMaxMembers = 1024, kArray = -1;
constexpr size_t kMaxShownBytes = 80;

/// Before parsing, because building objects takes the square of their members, and destroying and
/// printing deep values recurse.
void check_structure(std::string_view text) {
  std::vector<int> members;  // commas so far, of each open object or array
  bool in_string = false;
  const auto refuse = [](std::string what) { throw ApiError(400, "the body is " + what); };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\0')  // the parser would take it for the end and ignore what follows
      refuse(fmt::format("not valid JSON: a zero byte at offset {}", i));
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (members.size() == kMaxDepth)
        refuse(fmt::format("JSON nested more than {} deep", kMaxDepth));
      members.push_back(c == '{' ? 1 : kArray);
    } else if ((c == '}' || c == ']') && !members.empty()) {
      members.pop_back();
    } else if (c == ',' && !members.empty() && members.back() != kArray &&
               ++members.back() > kMaxMembers) {
      refuse(fmt::format("JSON with an object of more than {} members", kMaxMembers));
    }
  }
}

}  // namespace

Json parse_json_object(std::string_view body) {
  check_structure(body);
  Json value;
  try {
    value = Json::parse(body.begin(), body.end());
  } catch (const Json::parse_error& error) {
    throw ApiError(400, fmt::format("the body is not valid JSON at byte {}", error.byte));
  } catch (const Json::exception&) {
    throw ApiError(400, "the body is not valid JSON: a number is out of range");
  }
  if (!value.is_object())
    throw ApiError(400, fmt::format("the body is JSON {}, expected an object", value.type_name()));
  return value;
}

std::string to_text(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void append_json_string(std::string& out, std::string_view text) {
  bool plain = true;
  for (const char c : text) plain &= c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
  if (plain) {
    out += '"';
    out += text;
    out += '"';
  } else {
    out += Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
  }
}

std::string describe(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_string() && value.get_ref<const std::string&>().size() > kMaxShownBytes)
    return "a long string";
  return value.dump(-1, ' ', true, Json::error_handler_t::replace);
}

Fields::Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object())
    throw ApiError(400, fmt::format("\"{}\" is {}, expected an object", where_, describe(object)),
                   where_);
  if (!where_.empty()) where_ += '.';
}

void Fields::fail(const char* name, const Json& got, const std::string& expected) const {
  throw ApiError(400, fmt::format("\"{}\" is {}, expected {}", path(name), describe(got), expected),
                 path(name));
}

namespace {

/// 3.0 is an integer to JSON's users, and in JavaScript.
std::optional<int64_t> whole_number(const Json& value) {
  if (value.is_number_float()) {
    const auto real = value.get<double>();
    if (std::floor(real) != real || std::abs(real) >= 0x1p53) return std::nullopt;
    return static_cast<int64_t>(real);
  }
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() &&
       value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())))
    return std::nullopt;
  return value.get<int64_t>();
}

}  // namespace

const Json* Fields::find(const char* name) const {
  const auto at = object_.find(name);
  return at == object_.end() || at->is_null() ? nullptr : &*at;
}

std::optional<bool> Fields::boolean(const char* name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) fail(name, *value, "true or false");
  return value->get<bool>();
}

std::optional<int64_t> Fields::integer(const char* name, int64_t low, int64_t high) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> whole = whole_number(*value);
  if (!whole || *whole < low || *whole > high)
    fail(name, *value, fmt::format("an integer from {} to {}", low, high));
  return whole;
}

std::optional<double> Fields::number(const char* name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) fail(name, *value, "a number");
  return value->get<double>();
}

std::optional<std::string> Fields::string(const char* name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) fail(name, *value, "a string");
  return value->get<std::string>();
}

std::string Fields::need_string(const char* name) const {
  std::optional<std::string> value = string(name);
  if (!value || value->empty())
    throw ApiError(400, fmt::format("\"{}\" is missing, expected a string", path(name)),
                   path(name));
  return *std::move(value);
}

const Json* Fields::array(const char* name) const {
  const Json* value = find(name);
  if (value != nullptr && !value->is_array()) fail(name, *value, "an array");
  return value;
}

const Json* Fields::object(const char* name) const {
  const Json* value = find(name);
  if (value != nullptr && !value->is_object()) fail(name, *value, "an object");
  return value;
}

std::vector<std::string> Fields::strings(const char* name) const {
  const Json* value = find(name);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) fail(name, *value, "a string or an array of strings");
  std::vector<std::string> out;
  for (const Json& each : *value) {
    if (!each.is_string()) fail(name, each, "a string or an array of strings");
    out.push_back(each.get<std::string>());
  }
  return out;
}

std::vector<int32_t> Fields::tokens(const char* name) const {
  const Json* value = array(name);
  std::vector<int32_t> out;
  if (value != nullptr)
    for (const Json& each : *value) out.push_back(token_of(each, path(name)));
  return out;
}

int32_t token_of(const Json& value, const std::string& where) {
  const std::optional<int64_t> whole = whole_number(value);
  if (whole && *whole >= 0 && *whole <= INT32_MAX) return static_cast<int32_t>(*whole);
  throw ApiError(400, fmt::format("\"{}\" has {}, expected token ids", where, describe(value)),
                 where);
}

}  // namespace deltacome::server
