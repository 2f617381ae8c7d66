// SPDX-License-Identifier: Apache-2.0
#include "server/http_server.h"

#include <algorithm>
#include <thread>
#include <vector>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "core/check.h"
#include "server/connection.h"
#include "server/tls.h"

namespace deltacome::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);

/// A thread, its connections, and the clock that ends those that take too long.
struct Reactor {
  explicit Reactor(std::chrono::milliseconds tick_) : tick(tick_), timer(io) { sweep(); }

  void sweep() {
    const auto now = Clock::now();
    for (const auto& weak : connections)
      if (const auto connection = weak.lock()) connection->expire(now);
    std::erase_if(connections, [](const auto& weak) { return weak.expired(); });
    timer.expires_after(tick);
    timer.async_wait([this](const boost::system::error_code& error) {
      if (!error) sweep();
    });
  }
  void each(void (Connection::*f)()) {
    for (const auto& weak : connections)
      if (const auto connection = weak.lock()) ((*connection).*f)();
  }

  const std::chrono::milliseconds tick;
  asio::io_context io{1};
  asio::steady_timer timer;
  std::vector<std::weak_ptr<Connection>> connections;
  std::thread thread;
};

/// Fine enough for the shortest of the limits.
std::chrono::milliseconds tick_for(const HttpLimits& limits) {
  const auto shortest = std::min({limits.idle, limits.read, limits.write});
  return std::clamp(shortest / 4, std::chrono::milliseconds(5), std::chrono::milliseconds(1000));
}

tcp::endpoint resolve(asio::io_context& io, const std::string& host, uint16_t port) {
  boost::system::error_code error;
  const auto found = tcp::resolver(io).resolve(
      host, std::to_string(port), tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (error || found.empty())
    fail(ErrorCode::kIo, "host \"{}\": {}", host, error ? error.message() : "no address");
  return found.begin()->endpoint();
}

}  // namespace

struct HttpServer::Impl {
  Impl(const HttpServerOptions& options, Dispatcher dispatch) {
    context.limits = options.limits;
    context.dispatch = std::move(dispatch);
    if (!options.tls_certificate.empty() || !options.tls_key.empty())
      tls = std::make_unique<asio::ssl::context>(
          make_tls_context(options.tls_certificate, options.tls_key));
    for (int i = 0; i < std::max(1, options.n_threads); ++i)
      reactors.push_back(std::make_unique<Reactor>(tick_for(options.limits)));
    listen(options);
  }
  ~Impl() {
    close_all();
    join();
    acceptor.reset();
    reactors.clear();  // with coroutines that are still suspended, which name the context
  }

  void open() {
    for (const auto& reactor : reactors)
      reactor->thread = std::thread([&io = reactor->io] { io.run(); });
  }

  void close_all() {
    if (!reactors[0]->thread.joinable()) return;
    context.draining = true;
    for (const auto& reactor : reactors) {
      asio::post(reactor->io, [this, r = reactor.get()] {
        if (r == reactors[0].get()) close_listener();
        r->each(&Connection::close);
      });
    }
    // A connection that was being accepted is closed by the next round.
    while (!wait_drained(std::chrono::milliseconds(100))) {
      for (const auto& reactor : reactors)
        asio::post(reactor->io, [r = reactor.get()] { r->each(&Connection::close); });
    }
  }

  bool wait_drained(std::chrono::milliseconds limit) const {
    const auto end = Clock::now() + limit;
    while (context.n_connections > 0 && Clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return context.n_connections == 0;
  }

  void join() {
    for (const auto& reactor : reactors) {
      reactor->io.stop();
      if (reactor->thread.joinable()) reactor->thread.join();
    }
  }

  void listen(const HttpServerOptions& options) {
    asio::io_context& io = reactors[0]->io;
    const tcp::endpoint endpoint = resolve(io, options.host, options.port);
    acceptor = std::make_unique<tcp::acceptor>(io);
    try {
      acceptor->open(endpoint.protocol());
      acceptor->set_option(tcp::acceptor::reuse_address(true));
      acceptor->bind(endpoint);
      acceptor->listen(1024);
      port = acceptor->local_endpoint().port();
    } catch (const boost::system::system_error& error) {
      fail(ErrorCode::kIo, "cannot listen on {} port {}: {}", options.host, options.port,
           error.code().message());
    }
    asio::co_spawn(io, accept_all(), asio::detached);
  }

  asio::awaitable<void> accept_all() {
    for (size_t next = 0; acceptor->is_open(); ++next) {
      Reactor& reactor = *reactors[next % reactors.size()];
      tcp::socket socket(reactor.io);
      const auto [error] = co_await acceptor->async_accept(socket, kToken);
      if (error == asio::error::operation_aborted) co_return;
      if (error) {  // no file descriptors, for example: later there may be some
        asio::steady_timer pause(reactors[0]->io, std::chrono::milliseconds(50));
        co_await pause.async_wait(kToken);
      } else if (context.n_connections >= context.limits.connections) {
        turn_away(socket);
      } else {
        ++context.n_connections;  // until the connection counts itself
        asio::post(reactor.io, [this, &reactor, s = std::move(socket)]() mutable {
          --context.n_connections;
          const auto connection = make_connection(context, std::move(s), tls.get());
          reactor.connections.push_back(connection);
          connection->start();
        });
      }
    }
  }

  /// Says why, if it can be said at once.
  void turn_away(tcp::socket& socket) const {
    static constexpr std::string_view kFull =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n"
        "Connection: close\r\n\r\n";
    boost::system::error_code ignored;
    (void)socket.non_blocking(true, ignored);
    if (tls == nullptr) socket.write_some(asio::buffer(kFull), ignored);
    (void)socket.shutdown(tcp::socket::shutdown_send, ignored);
  }

  void close_listener() {
    boost::system::error_code ignored;
    (void)acceptor->close(ignored);
  }

  ConnectionContext context;
  std::unique_ptr<asio::ssl::context> tls;
  std::vector<std::unique_ptr<Reactor>> reactors;
  std::unique_ptr<tcp::acceptor> acceptor;
  uint16_t port = 0;
};

HttpServer::HttpServer(const HttpServerOptions& options, Dispatcher dispatch)
    : impl_(std::make_unique<Impl>(options, std::move(dispatch))) {}
HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const noexcept {
  return impl_->port;
}
int64_t HttpServer::n_connections() const noexcept {
  return impl_->context.n_connections;
}
int64_t HttpServer::n_slow_readers() const noexcept {
  return impl_->context.n_slow_readers;
}

void HttpServer::drain() {
  impl_->context.draining = true;
  for (const auto& reactor : impl_->reactors) {
    asio::post(reactor->io, [this, r = reactor.get()] {
      if (r == impl_->reactors[0].get()) impl_->close_listener();
      r->each(&Connection::close_if_idle);
    });
  }
}

bool HttpServer::wait_drained(std::chrono::milliseconds limit) {
  return impl_->wait_drained(limit);
}
void HttpServer::open() {
  impl_->open();
}
void HttpServer::close_all() {
  impl_->close_all();
}
void HttpServer::join() {
  impl_->join();
}

}  // namespace deltacome::server
