// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <optional>
#include <string>

#include "deltacome/error.h"
#include "server/http.h"

namespace deltacome::server {

/// What a client is told: a status, a type in vLLM's words, and one sentence.
class ApiError : public std::exception {
 public:
  /// The type follows from the status.
  ApiError(int status, std::string message, std::string param = {});
  explicit ApiError(const Error& error);

  ApiError&& with_type(std::string type) &&;
  ApiError&& retry_after(int seconds) &&;

  const char* what() const noexcept override { return message.c_str(); }

  int status;
  std::string type, message, param;
  std::optional<int> retry_after_s = {};
  std::string allow = {};  // 405: the methods that there are
};

int http_status(ErrorCode code) noexcept;

/// {"error": {"message", "type", "param", "code"}}, on one line.
std::string error_body(const ApiError& error);
HttpResponse error_response(const ApiError& error);

}  // namespace deltacome::server
