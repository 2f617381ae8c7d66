// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "server/answer_request.h"

namespace deltacome::server {

enum class GenerateRoute {
  kWhole,   // /generate
  kStream,  // /generate_stream
  kEither,  // POST /: by the field "stream"; a whole response is in an array
};

/// A body of LoRAX's {"inputs", "parameters"}; adapter_id names the variant, wherever
/// adapter_source says that it came from. Throws ApiError(400).
AnswerRequest parse_generate(std::string_view body, GenerateRoute route);

}  // namespace deltacome::server
