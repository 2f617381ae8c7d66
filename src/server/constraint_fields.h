// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "server/json_fields.h"

namespace deltacome::server {

/// What a request wants its answer to be held to.
struct ConstraintSpec {
  enum class Kind { kNone, kJsonObject, kJsonSchema, kRegex, kChoice, kGrammar };
  Kind kind = Kind::kNone;
  std::string text = {};                  // the schema as JSON, the expression, the grammar
  std::vector<std::string> choices = {};  // kChoice
  std::string field = {};                 // that asked for it
};

/// Reads response_format, and vLLM's guided_* and structured_outputs; at most one of them may ask
/// for something. Throws ApiError(400).
ConstraintSpec read_constraint(const Fields& fields);

}  // namespace deltacome::server
