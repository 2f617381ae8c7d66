// SPDX-License-Identifier: Apache-2.0
#include "server/request_reader.h"

#include <fmt/format.h>

namespace deltacome::server {

namespace http = boost::beast::http;

RequestReader::RequestReader(const HttpLimits& limits) : limits_(limits) {
  parser_.header_limit(static_cast<uint32_t>(limits.header_bytes));
  parser_.body_limit(static_cast<uint64_t>(limits.body_bytes));
  parser_.eager(true);
}

void RequestReader::fail(int status, std::string reason) {
  failed_ = status;
  reason_ = std::move(reason);
}

size_t RequestReader::put(const char* data, size_t n) {
  if (n == 0 || failed_ != 0 || done()) return 0;
  begun_ = true;
  // Beast asserts that a last chunk that it sees again has the 5 bytes that any chunked body still
  // has to come ("0\r\n\r\n").
  if (parser_.is_header_done() && parser_.chunked() && n < 5) return 0;
  boost::beast::error_code error;
  const size_t taken = parser_.put(boost::asio::const_buffer(data, n), error);
  if (!error || error == http::error::need_more) return taken;
  if (error == http::error::header_limit) {
    fail(431, fmt::format("the header is larger than {} bytes", limits_.header_bytes));
  } else if (error == http::error::body_limit) {
    fail(413, fmt::format("the body is larger than {} bytes", limits_.body_bytes));
  } else {
    fail(400, fmt::format("not a valid HTTP request: {}", error.message()));
  }
  return taken;
}

bool RequestReader::wants_continue() {
  if (continued_ || failed_ != 0 || done() || !parser_.is_header_done()) return false;
  continued_ = true;
  return boost::beast::iequals(parser_.get()[http::field::expect], "100-continue");
}

std::optional<HttpRequest> RequestReader::take() {
  auto message = parser_.release();
  HttpRequest out;
  out.received = Clock::now();
  out.method = std::string(message.method_string());
  const std::string_view target(message.target().data(), message.target().size());
  const size_t question = target.find('?');
  if (target.empty() || target[0] != '/' || !percent_decode(target.substr(0, question), out.path)) {
    fail(400, "the request's target is not a path");
    return std::nullopt;
  }
  if (question != std::string_view::npos) out.query = target.substr(question + 1);
  out.authorization = std::string(message[http::field::authorization]);
  out.content_type = std::string(message[http::field::content_type]);
  out.host = std::string(message[http::field::host]);
  const auto id = message["X-Request-Id"];
  out.id = is_request_id({id.data(), id.size()}) ? std::string(id) : new_id();
  out.body = std::move(message.body());
  return out;
}

}  // namespace deltacome::server
