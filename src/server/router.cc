// SPDX-License-Identifier: Apache-2.0
#include "server/router.h"

#include <fmt/format.h>

#include "server/errors.h"
#include "server/json_fields.h"

namespace deltacome::server {

const Route& Router::find(const HttpRequest& request, std::string& rest) const {
  const std::string method = request.method == "HEAD" ? "GET" : request.method;
  std::string allowed;
  for (const Route& route : routes_) {
    const bool open = route.path.ends_with('*');
    const std::string_view begin = std::string_view(route.path).substr(0, route.path.size() - open);
    if (open ? !(request.path.starts_with(begin) && request.path.size() > begin.size())
             : request.path != begin)
      continue;
    if (route.method == method) {
      rest = open ? request.path.substr(begin.size()) : "";
      return route;
    }
    allowed += (allowed.empty() ? "" : ", ") + route.method;
  }
  const std::string path = describe(Json(request.path));
  if (allowed.empty()) throw ApiError(404, fmt::format("there is no {}", path));
  ApiError error(405, fmt::format("{} of {} is not possible, expected {}",
                                  describe(Json(request.method)), path, allowed));
  error.allow = allowed;
  throw error;
}

}  // namespace deltacome::server
