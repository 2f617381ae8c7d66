// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "deltacome/server.h"
#include "server/allowed_paths.h"
#include "server/answer_request.h"
#include "server/image_fetcher.h"
#include "server/router.h"
#include "server/server_metrics.h"
#include "server/tenants.h"
#include "server/variant_names.h"

namespace deltacome::server {

/// What the handlers share. Outlives all requests.
struct ApiContext {
  ServedEngine& engine;
  const ServerOptions& options;
  VariantNames& names;
  const AllowedPaths& allowed;
  const ImageFetcher& images;
  ServerMetrics metrics = {};
  Tenants tenants = {};
  std::atomic<int64_t> open_answers = 0;  // runs that may still hear of the engine
  std::atomic<bool> draining = false;
  std::atomic<bool> engine_failed = false;
  std::function<ServerMetrics::Gauges()> gauges = {};
};

/// Counts what may still hear of the engine: the server does not end before it. The member that is
/// declared first, so that it goes last.
class OpenCount {
 public:
  explicit OpenCount(ApiContext& context) : context_(context) { ++context_.open_answers; }
  ~OpenCount() { --context_.open_answers; }
  OpenCount(const OpenCount&) = delete;
  OpenCount& operator=(const OpenCount&) = delete;

 private:
  ApiContext& context_;
};

// Each gives the routes of one part of the API.
std::vector<Route> answer_routes(ApiContext& context);    // completions, chats, tokenize
std::vector<Route> generate_routes(ApiContext& context);  // LoRAX's own paths
std::vector<Route> variant_routes(ApiContext& context);   // load, unload, /v1/deltas
std::vector<Route> info_routes(ApiContext& context);      // models, health, metrics, page, ...

/// Admits and starts a request for answers. Throws what refuses it.
void answer(ApiContext& context, Call& call, AnswerRequest request);
/// parse_chat(), with pictures of the hosts that are allowed.
AnswerRequest chat_of(const ApiContext& context, std::string_view body);
/// Parses the body; an empty one is an empty object.
Json body_of(const Call& call);
void send_json(const Call& call, const Json& body, int status = 200);
/// Throws ApiError(404), as for a name that does not exist, if the caller may not use it.
void check_may_use(const Call& call, const VariantNames& names, const std::string& variant);

}  // namespace deltacome::server
