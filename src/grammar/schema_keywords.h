// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace deltacome::grammar {

/// The keywords of JSON Schema that are known: those that say nothing about what is valid, those
/// that are resolved first, and those that a plain schema consists of.
inline constexpr std::array kAnnotations = {
    "title",      "description", "default",       "examples", "example",
    "deprecated", "readOnly",    "writeOnly",     "$comment", "$schema",
    "$id",        "$anchor",     "discriminator", "$defs",    "definitions"};
inline constexpr std::array kCombining = {"$ref", "allOf", "anyOf", "oneOf"};
inline constexpr std::array kConstraints = {
    "type",    "enum",        "const",    "properties", "required",         "additionalProperties",
    "items",   "prefixItems", "minItems", "maxItems",   "minLength",        "maxLength",
    "pattern", "format",      "minimum",  "maximum",    "exclusiveMinimum", "exclusiveMaximum"};

template <class List>
bool is_in(const List& list, std::string_view key) {
  return std::ranges::any_of(list, [&](const char* k) { return key == k; });
}

}  // namespace deltacome::grammar
