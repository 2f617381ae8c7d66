// SPDX-License-Identifier: Apache-2.0
// LoRAX's own paths: /generate, /generate_stream, POST / and /info.
#include <fmt/format.h>

#include "server/api.h"
#include "server/generate_format.h"
#include "server/generate_request.h"

namespace deltacome::server {
namespace {

void generate(ApiContext& context, Call& call, GenerateRoute route) {
  try {
    answer(context, call, parse_generate(call.request.body, route));
  } catch (const ApiError& error) {
    call.out->send(generate_error_response(error));
  } catch (const Error& error) {
    call.out->send(generate_error_response(ApiError(error)));
  }
}

void info(ApiContext& context, Call& call) {
  send_json(call, {{"model_id", context.names.base_name()},
                   {"model_sha", nullptr},
                   {"model_device_type", context.engine.device()},
                   {"model_pipeline_tag", "text-generation"},
                   {"max_concurrent_requests", context.options.max_requests},
                   {"max_best_of", kMaxAnswersPerRequest},
                   {"max_input_length", context.engine.max_context() - 1},
                   {"max_total_tokens", context.engine.max_context()},
                   {"version", context.options.version},
                   {"sha", nullptr},
                   {"docker_label", nullptr}});
}

}  // namespace

std::vector<Route> generate_routes(ApiContext& context) {
  const auto route = [&](const char* path, GenerateRoute kind) {
    return Route{.method = "POST",
                 .path = path,
                 .access = Access::kInference,
                 .handler = [&context, kind](Call& call) { generate(context, call, kind); }};
  };
  return {route("/generate", GenerateRoute::kWhole),
          route("/generate_stream", GenerateRoute::kStream), route("/", GenerateRoute::kEither),
          Route{.method = "GET",
                .path = "/info",
                .access = Access::kInference,
                .blocks = false,
                .handler = [&context](Call& call) { info(context, call); }}};
}

}  // namespace deltacome::server
