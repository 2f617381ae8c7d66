// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>

#include "server/http.h"

namespace deltacome::server {

/// What all connections of a server share. Outlives them.
struct ConnectionContext {
  HttpLimits limits;
  Dispatcher dispatch;
  std::atomic<int64_t> n_connections = 0;
  std::atomic<int64_t> n_slow_readers = 0;  // cut off for falling behind
  std::atomic<bool> draining = false;       // responses close their connections
};

/// A connection as its reactor sees it. All members are called on the reactor's thread.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual void start() = 0;
  virtual void close() = 0;                        // at once
  virtual void close_if_idle() = 0;                // no request has begun
  virtual void expire(Clock::time_point now) = 0;  // closes it if its deadline is over
  virtual bool closed() const = 0;
};

/// `tls` null: plain. The connection keeps itself alive until it has closed.
std::shared_ptr<Connection> make_connection(ConnectionContext& context,
                                            boost::asio::ip::tcp::socket socket,
                                            boost::asio::ssl::context* tls);

}  // namespace deltacome::server
