// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "text/jinja_ast.h"

namespace deltacome::jinja {

/// Renders a parsed template with the variables of a dict. Throws Error with the line:
/// kInvalidArgument for what the template or Python would refuse and for exceeded limits,
/// kUnsupported for what is missing here. `budget` was used for the variables too.
std::string render_template(const std::vector<NodePtr>& body, const Dict& variables,
                            Budget& budget);

}  // namespace deltacome::jinja
