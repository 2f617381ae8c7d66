// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "deltacome/request.h"
#include "server/json_fields.h"

namespace deltacome::server {

/// Reads response_format, and vLLM's guided_* and structured_outputs; at most one of them may ask
/// for something. Throws ApiError(400).
std::optional<Constraint> read_constraint(const Fields& fields);

}  // namespace deltacome::server
