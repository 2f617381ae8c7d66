// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "server/errors.h"

namespace deltacome::server {

/// Keeps the order of members: templates print tools in the order in which they were sent.
using Json = nlohmann::ordered_json;

/// An untrusted body that must be one JSON object, nested at most 64 deep and with at most 1,024
/// members an object (finding one is a linear search). Throws ApiError(400).
Json parse_json_object(std::string_view body);

/// `value` as JSON text; bytes that are not UTF-8 become U+FFFD.
std::string to_text(const Json& value);
/// Appends `text` as a JSON string with its quotes.
void append_json_string(std::string& out, std::string_view text);
/// A value for a message: on one line, shortened if long.
std::string describe(const Json& value);

/// Typed access to the fields of an object. A field that is null counts as absent. Everything
/// throws ApiError(400) that names the field, what it got and what it expected.
class Fields {
 public:
  /// `where` stands before field names in messages: "messages[0]."
  explicit Fields(const Json& object, std::string where = {});

  const Json* find(const char* name) const;  // null if absent
  bool has(const char* name) const { return find(name) != nullptr; }
  std::optional<bool> boolean(const char* name) const;
  std::optional<int64_t> integer(const char* name, int64_t low, int64_t high) const;
  std::optional<double> number(const char* name) const;
  std::optional<std::string> string(const char* name) const;
  std::string need_string(const char* name) const;  // and it is not empty
  const Json* array(const char* name) const;
  const Json* object(const char* name) const;
  /// A string, or an array of strings.
  std::vector<std::string> strings(const char* name) const;
  /// An array of integers that fit token ids.
  std::vector<int32_t> tokens(const char* name) const;

  std::string path(const char* name) const { return where_ + name; }
  [[noreturn]] void fail(const char* name, const Json& got, const std::string& expected) const;

 private:
  const Json& object_;
  std::string where_;
};

/// An element of an array that must be a token id. `where` names it.
int32_t token_of(const Json& value, const std::string& where);

}  // namespace deltacome::server
