// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "server/http.h"

namespace deltacome::server {

/// Parses one request out of bytes as they come. Every limit and fault has its status.
class RequestReader {
 public:
  explicit RequestReader(const HttpLimits& limits);

  /// Returns how many bytes were taken; what is left belongs to the next request.
  size_t put(const char* data, size_t n);
  bool begun() const noexcept { return begun_; }
  bool in_body() const { return parser_.is_header_done(); }
  bool done() const { return parser_.is_done(); }
  /// The client waits for a word before it sends the body. True once.
  bool wants_continue();
  /// The status of a fault, 0 if there was none; then the connection is of no more use.
  int failed() const noexcept { return failed_; }
  const std::string& reason() const noexcept { return reason_; }
  bool keep_alive() const { return parser_.get().keep_alive(); }
  bool chunked_reply() const { return parser_.get().version() >= 11; }
  bool is_head() const { return parser_.get().method() == boost::beast::http::verb::head; }
  /// After done(). nullopt, and failed(), if the target makes no sense.
  std::optional<HttpRequest> take();

 private:
  void fail(int status, std::string reason);

  const HttpLimits& limits_;
  boost::beast::http::request_parser<boost::beast::http::string_body> parser_;
  bool begun_ = false, continued_ = false;
  int failed_ = 0;
  std::string reason_;
};

}  // namespace deltacome::server
