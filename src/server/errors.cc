// SPDX-License-Identifier: Apache-2.0
#include "server/errors.h"

#include <nlohmann/json.hpp>

namespace deltacome::server {
namespace {

const char* type_of(int status) noexcept {
  switch (status) {
    case 401:
      return "AuthenticationError";
    case 403:
      return "PermissionDeniedError";
    case 404:
      return "NotFoundError";
    case 409:
      return "ConflictError";
    case 429:
      return "RateLimitError";
    case 500:
      return "InternalServerError";
    case 503:
      return "ServiceUnavailableError";
    case 504:
      return "TimeoutError";
    case 507:
      return "InsufficientStorageError";
    default:
      return "BadRequestError";
  }
}

}  // namespace

int http_status(ErrorCode code) noexcept {
  switch (code) {  // no default: a new code must choose its status
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnsupported:
    case ErrorCode::kCorrupt:
    case ErrorCode::kMismatch:
      return 400;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kOverloaded:
      return 429;
    case ErrorCode::kOutOfMemory:
      return 507;
    case ErrorCode::kIo:
    case ErrorCode::kDevice:
    case ErrorCode::kInternal:
      return 500;
  }
  return 500;
}

ApiError::ApiError(int status_, std::string message_, std::string param_)
    : status(status_),
      type(type_of(status_)),
      message(std::move(message_)),
      param(std::move(param_)) {}

ApiError::ApiError(const Error& error) : ApiError(http_status(error.code()), error.what()) {
  if (error.code() == ErrorCode::kOverloaded) retry_after_s = 1;
}

ApiError&& ApiError::with_type(std::string name) && {
  type = std::move(name);
  return std::move(*this);
}

ApiError&& ApiError::retry_after(int seconds) && {
  retry_after_s = seconds;
  return std::move(*this);
}

std::string error_body(const ApiError& error) {
  const nlohmann::ordered_json body = {
      {"error",
       {{"message", error.message},
        {"type", error.type},
        {"param",
         error.param.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(error.param)},
        {"code", error.status}}}};
  return body.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse out{.status = error.status, .body = error_body(error)};
  if (error.retry_after_s)
    out.headers.emplace_back("Retry-After", std::to_string(*error.retry_after_s));
  if (!error.allow.empty()) out.headers.emplace_back("Allow", error.allow);
  if (error.status == 401) out.headers.emplace_back("WWW-Authenticate", "Bearer");
  return out;
}

}  // namespace deltacome::server
