// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "server/http.h"

namespace deltacome::server {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;  // 0 = a free one
  int n_threads = 2;
  std::filesystem::path tls_certificate = {}, tls_key = {};  // PEM; both or none
  HttpLimits limits = {};
};

/// Listens, and hands requests to a dispatcher. Each connection belongs to one of a few threads.
class HttpServer {
 public:
  /// Listens when it returns; connections wait for open(). Throws kIo if the address is not to be
  /// had, kInvalidArgument for TLS files that are not usable.
  HttpServer(const HttpServerOptions& options, Dispatcher dispatch);
  /// As join().
  ~HttpServer();

  /// Starts the threads. Once.
  void open();

  uint16_t port() const noexcept;
  int64_t n_connections() const noexcept;
  int64_t n_slow_readers() const noexcept;  // cut off, since the start

  /// Stops listening; idle connections are closed, others after their response.
  void drain();
  /// Waits for the last connection, at most that long; whether there is none left.
  bool wait_drained(std::chrono::milliseconds limit);
  /// Closes what is open, and waits until it has closed. Streams may still be used.
  void close_all();
  /// Ends the threads. Streams must not be used any more.
  void join();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace deltacome::server
