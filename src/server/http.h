// SPDX-License-Identifier: Apache-2.0
// The seam between the HTTP core and the handlers: plain values, no library of either side.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace deltacome::server {

using Clock = std::chrono::steady_clock;

struct HttpRequest {
  std::string method = {};  // "GET", as it was sent
  std::string path = {};    // of the target, percent-decoded, without the query
  std::string query = {};   // after '?', as it was sent
  std::string authorization = {}, content_type = {}, host = {};  // headers
  std::string id = {};  // X-Request-Id, if the client sent a usable one, else made here
  std::string remote = {};
  std::string body = {};
  Clock::time_point received = {};  // when its last byte came
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers = {};
  std::string body = {};
};

/// Where the answer to one request goes. All members may be called from any thread and never block;
/// calls take effect in the order of one caller. After the client has gone they do nothing.
class ResponseStream {
 public:
  virtual ~ResponseStream() = default;

  /// Runs `f` on the connection's own thread, after everything that was posted before. What a
  /// request keeps is touched there only, so that it needs no lock. `f` must not block.
  virtual void post(std::function<void()> f) = 0;

  /// The whole response. Either this once, or begin(), write()..., end().
  virtual void send(HttpResponse response) = 0;

  // A response in pieces. On the connection's thread only.
  virtual void begin(HttpResponse head) = 0;  // its body is ignored
  /// False if the reader has fallen behind by more than the limit, or has gone: the connection is
  /// then closed, and the caller ends its work.
  virtual bool write(std::string_view piece) = 0;
  virtual void end() = 0;

  /// Called once on the connection's thread, at once if it is too late, if the client goes before
  /// the end of the response.
  virtual void on_gone(std::function<void()> f) = 0;
};

/// Takes a request on the connection's thread. Must not block nor throw.
using Dispatcher = std::function<void(HttpRequest, std::shared_ptr<ResponseStream>)>;

struct HttpLimits {
  int64_t header_bytes = 16 << 10;
  int64_t body_bytes = 8 << 20;
  int64_t connections = 4096;
  int64_t stream_buffer_bytes = 512 << 10;  // that a slow reader may lag behind
  std::chrono::milliseconds idle{75'000};   // between requests of a connection
  std::chrono::milliseconds read{30'000};   // from a request's first byte to its last
  std::chrono::milliseconds write{30'000};  // without any progress of a reader
};

std::string_view reason_phrase(int status) noexcept;

/// "%2F" -> "/"; nullopt-like: false if it is malformed or has a zero byte.
bool percent_decode(std::string_view text, std::string& out);

/// Whether text may go into a header and a log line as a request id.
bool is_request_id(std::string_view text) noexcept;
/// 128 random bits in hex.
std::string new_id();

}  // namespace deltacome::server
