// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace deltacome {

/// Parses untrusted text that must be one JSON object in UTF-8; no name twice in one object,
/// nesting at most 64 deep. Throws kCorrupt; `where` begins the message.
nlohmann::json parse_json_object(std::string_view text, const std::string& where);

/// Untrusted text for a message: in quotes, on one line, shortened if long.
std::string quote(std::string_view text);
/// A JSON value for a message: the same rules, "an object" for one.
std::string describe(const nlohmann::json& value);

}  // namespace deltacome
