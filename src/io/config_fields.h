// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/json.h"

namespace deltacome {

/// Typed reads of one JSON object; every message names the file and the field. A field that is
/// null counts as absent. All throw kCorrupt. The object must outlive it.
class ConfigFields {
 public:
  ConfigFields(const nlohmann::json& object, std::string where);

  const std::string& where() const noexcept { return where_; }
  bool is_present(const char* key) const { return object_.contains(key); }  // null counts
  const nlohmann::json* find(const char* key) const;  // null pointer if absent or null
  const nlohmann::json& require(const char* key) const;

  /// An integer of [low, high]; required, or with the value that an absent field has.
  int64_t integer(const char* key, int64_t low, int64_t high) const;
  int64_t integer_or(const char* key, int64_t absent, int64_t low, int64_t high) const;
  int64_t check_integer(const char* key, const nlohmann::json& value, int64_t low,
                        int64_t high) const;

  /// A number of [low, high].
  double number(const char* key, double low, double high) const;
  double number_or(const char* key, double absent, double low, double high) const;

  bool flag_or(const char* key, bool absent) const;
  std::string text_or(const char* key, const std::string& absent) const;
  /// A list of strings that are not empty; absent: an empty list.
  std::vector<std::string> texts_or_empty(const char* key) const;

  /// Throws kCorrupt: "<where>: <key> is <value>, expected <expected>".
  [[noreturn]] void reject(const char* key, const nlohmann::json& value,
                           const std::string& expected) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace deltacome
