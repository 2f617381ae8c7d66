// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace deltacome::grammar {

/// The regular expression of a `format` of JSON Schema; nullptr if it is not known.
const char* format_pattern(std::string_view format);
std::string known_formats();  // for a message

}  // namespace deltacome::grammar
