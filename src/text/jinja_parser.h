// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

#include "text/jinja_ast.h"

namespace deltacome::jinja {

/// Parses a template, valid UTF-8. Throws Error: kCorrupt for a syntax error, kUnsupported for a
/// statement, filter, test or form of expression that is not known, each with its line.
std::vector<NodePtr> parse_template(std::string_view source);

}  // namespace deltacome::jinja
