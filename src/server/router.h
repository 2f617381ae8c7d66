// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/http.h"
#include "server/keys.h"

namespace deltacome::server {

/// What the log tells of a request beside its path. No text of answers.
struct RequestRecord {
  std::string method = {}, path = {}, id = {}, remote = {}, tenant = {}, model = {};
  Clock::time_point received = {};
  std::string body = {};  // of a request for answers, if --log-prompts asks for it
  int status = 0;
  int64_t prompt_tokens = 0, output_tokens = 0;
  bool gone = false;  // the client went before the end
};

/// A request on its way through a handler.
struct Call {
  HttpRequest request;
  std::string rest;  // of the path, where the route ends in "*"
  std::shared_ptr<const Caller> caller;
  std::shared_ptr<RequestRecord> record;
  std::shared_ptr<ResponseStream> out;
};

enum class Access { kPublic, kInference, kAdmin };

struct Route {
  std::string method;
  std::string path;  // exact, or a beginning with "*" at its end
  Access access = Access::kPublic;
  bool blocks = true;  // runs on a worker; false: at once on the connection's thread
  std::function<void(Call&)> handler = {};  // throws ApiError or Error, then it has sent nothing
};

class Router {
 public:
  explicit Router(std::vector<Route> routes) : routes_(std::move(routes)) {}
  /// Throws ApiError: 404 for an unknown path, 405 for another method. HEAD is GET.
  const Route& find(const HttpRequest& request, std::string& rest) const;

 private:
  std::vector<Route> routes_;
};

}  // namespace deltacome::server
