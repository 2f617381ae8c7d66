// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/jinja_value.h"

namespace deltacome::jinja {

std::string float_repr(double value);  // Python's repr: shortest digits, "1.0", "1e-05"
/// Python's str(); a fault for values whose text is an address (macros, generators, ...).
std::string to_text(const Value& value, Budget& budget);
std::string to_repr(const Value& value, Budget& budget);

struct JsonStyle {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  // one level; nullopt: one line
  std::string item_separator = ", ";  // "," with an indent
  std::string key_separator = ": ";
  bool sort_keys = false;
};
/// Python's json.dumps().
std::string to_json(const Value& value, const JsonStyle& style, Budget& budget);
/// The values of a JSON text. Throws Error(kInvalidArgument), named `what`.
Value from_json(std::string_view json, const std::string& what, Budget& budget);

/// Accounts for a search, whose worst case is the product of the lengths.
void charge_search(std::string_view text, std::string_view pattern, Budget& budget);

}  // namespace deltacome::jinja
