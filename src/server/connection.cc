// SPDX-License-Identifier: Apache-2.0
#include "server/connection.h"

#include <fmt/format.h>

#include <optional>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include "server/errors.h"
#include "server/exchange.h"
#include "server/request_reader.h"

namespace deltacome::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using TlsStream = asio::ssl::stream<tcp::socket>;

constexpr size_t kReadBytes = 4096, kBodyReadBytes = 64 << 10;
constexpr size_t kReadAhead = 64 << 10;  // of pipelined requests, while one is answered
constexpr auto kLinger = std::chrono::seconds(2);

std::string serialize_head(const HttpResponse& head, bool streams, bool chunked, bool keep_alive) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\n", head.status, reason_phrase(head.status));
  if (!head.content_type.empty()) out += fmt::format("Content-Type: {}\r\n", head.content_type);
  for (const auto& [name, value] : head.headers) out += fmt::format("{}: {}\r\n", name, value);
  if (!streams) {
    out += fmt::format("Content-Length: {}\r\n", head.body.size());
  } else if (chunked) {
    out += "Transfer-Encoding: chunked\r\n";
  }
  out += keep_alive ? "\r\n" : "Connection: close\r\n\r\n";
  return out;
}

// co_await stands in statements of its own: GCC 12 miscompiles it in conditions of class templates.

/// Two coroutines: read_all() fills `input_`, so that a client that goes is noticed at any time;
/// run() parses, hands requests out and writes. Both are on the reactor's thread.
template <class Stream>
class ConnectionImpl : public Connection,
                       public std::enable_shared_from_this<ConnectionImpl<Stream>> {
  template <class T>
  using Task = asio::awaitable<T, asio::io_context::executor_type>;

 public:
  ConnectionImpl(ConnectionContext& context, Stream stream,
                 asio::io_context::executor_type executor)
      : context_(context),
        executor_(executor),
        stream_(std::move(stream)),
        changed_(executor),
        room_(executor) {
    ++context_.n_connections;
    boost::system::error_code ignored;
    const auto endpoint = stream_.lowest_layer().remote_endpoint(ignored);
    if (!ignored) remote_ = endpoint.address().to_string();
    stream_.lowest_layer().set_option(tcp::no_delay(true), ignored);
    changed_.expires_at(Clock::time_point::max());
    room_.expires_at(Clock::time_point::max());
  }
  ~ConnectionImpl() override { --context_.n_connections; }

  void start() override {
    asio::co_spawn(executor_, run_held(this->shared_from_this()), asio::detached);
  }

  void close() override {
    if (closed_) return;
    closed_ = true;
    boost::system::error_code ignored;
    stream_.lowest_layer().close(ignored);
    changed_.cancel();
    room_.cancel();
    if (exchange_) exchange_->gone();
  }
  void close_if_idle() override {
    if (idle_) close();
  }
  void expire(Clock::time_point now) override {
    if (now >= deadline_) close();
  }
  bool closed() const override { return closed_; }

 private:
  // Each holds the connection while its coroutine runs. If there is no memory, this connection
  // ends, and the others go on.
  static Task<void> run_held(std::shared_ptr<ConnectionImpl> self) {
    try {
      co_await self->run();
    } catch (const std::exception&) {
      self->close();
    }
  }
  static Task<void> read_held(std::shared_ptr<ConnectionImpl> self) {
    try {
      co_await self->read_all();
    } catch (const std::exception&) {
      self->close();
    }
  }

  Task<void> run() {
    bool more = co_await handshake();
    if (more) {
      asio::co_spawn(executor_, read_held(this->shared_from_this()), asio::detached);
      while (more) more = co_await serve_one();
      if (!closed_ && !input_ended_ && (refused_ || !input_.empty())) co_await linger();
    }
    close();
  }

  Task<bool> handshake() {
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      deadline_ = Clock::now() + context_.limits.read;
      const auto [error] = co_await stream_.async_handshake(TlsStream::server, token());
      co_return !error;
    }
    co_return true;
  }

  /// The only reader of the socket.
  Task<void> read_all() {
    std::string piece;
    while (!closed_) {
      if (!lingering_ && input_.size() >= kReadAhead) {
        co_await room_.async_wait(token());
        continue;
      }
      piece.resize(in_body_ ? kBodyReadBytes : kReadBytes);
      if (!in_body_) piece.shrink_to_fit();
      const auto [error, n] = co_await stream_.async_read_some(asio::buffer(piece), token());
      if (error) break;
      if (!lingering_) input_.append(piece, 0, n);
      changed_.cancel();
    }
    input_ended_ = true;
    if (exchange_) exchange_->gone();
    changed_.cancel();
  }

  /// A reader that fell behind is cut off at once: a write to it may be going on for long.
  void exchange_changed() {
    if (exchange_->overflowed()) {
      ++context_.n_slow_readers;
      close();
    }
    changed_.cancel();
  }

  /// One request and its response; whether another one may follow.
  Task<bool> serve_one() {
    RequestReader reader(context_.limits);
    std::optional<HttpRequest> request;
    const bool whole = co_await read_request(reader);
    if (whole) request = reader.take();
    if (closed_) co_return false;
    if (reader.failed() != 0) {
      co_await refuse(reader.failed(), reader.reason());
      co_return false;
    }
    if (!request) co_return false;
    request->remote = remote_;
    const bool keep = reader.keep_alive();
    exchange_ = std::make_shared<Exchange>(executor_, context_.limits.stream_buffer_bytes,
                                           [this] { exchange_changed(); });
    deadline_ = Clock::time_point::max();  // the handler has its own
    context_.dispatch(std::move(*request), exchange_);
    const bool written = co_await respond(reader, keep);
    if (written) exchange_->finish();
    exchange_->gone();
    exchange_.reset();
    const bool more = written && !last_ && !context_.draining;
    co_return more;
  }

  Task<bool> read_request(RequestReader& reader) {
    idle_ = true;
    deadline_ = Clock::now() + context_.limits.idle;
    for (;;) {
      input_.erase(0, reader.put(input_.data(), input_.size()));
      if (input_.empty() && input_.capacity() > kReadBytes) input_ = {};
      room_.cancel();
      if (reader.begun() && idle_) {
        idle_ = false;
        deadline_ = Clock::now() + context_.limits.read;
      }
      if (closed_ || reader.failed() != 0) co_return false;
      if (reader.done()) break;
      in_body_ = reader.in_body();
      if (reader.wants_continue()) {
        static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
        const bool told = co_await write_all(asio::buffer(kContinue));
        if (!told) co_return false;
        continue;
      }
      if (input_ended_) co_return false;
      co_await changed_.async_wait(token());
    }
    in_body_ = false;
    co_return true;
  }

  /// Writes what the handler gives until it ends; whether all of it was written.
  Task<bool> respond(RequestReader& reader, bool keep) {
    const std::shared_ptr<Exchange> exchange = exchange_;
    while (!exchange->has_head()) {
      if (closed_ || input_ended_) co_return false;
      co_await changed_.async_wait(token());
    }
    const bool chunked = reader.chunked_reply();
    last_ = !keep || context_.draining || (exchange->streams() && !chunked);
    const HttpResponse& head = exchange->head();
    std::string text = serialize_head(head, exchange->streams(), chunked, !last_);
    if (!exchange->streams()) {
      const std::array<asio::const_buffer, 2> parts{
          asio::buffer(text), asio::buffer(reader.is_head() ? std::string_view() : head.body)};
      co_return co_await write_all(parts);
    }
    std::string pending;
    for (;;) {
      const bool ended = exchange->ended();
      exchange->take(pending);
      if (chunked && !pending.empty()) text += fmt::format("{:x}\r\n", pending.size());
      const std::string_view tail = !chunked                   ? ""
                                    : ended && pending.empty() ? "0\r\n\r\n"
                                    : ended                    ? "\r\n0\r\n\r\n"
                                    : pending.empty()          ? ""
                                                               : "\r\n";
      const std::array<asio::const_buffer, 3> parts{asio::buffer(text), asio::buffer(pending),
                                                    asio::buffer(tail)};
      const bool written = co_await write_all(parts);
      if (!written) co_return false;
      text.clear();
      if (ended) co_return true;
      deadline_ = Clock::time_point::max();
      while (!exchange->ended() && exchange->empty()) {
        if (closed_ || input_ended_) co_return false;
        co_await changed_.async_wait(token());
      }
    }
  }

  template <class Buffers>
  Task<bool> write_all(Buffers buffers) {
    deadline_ = Clock::now() + context_.limits.write;
    const auto [error, n] = co_await asio::async_write(stream_, buffers, token());
    co_return !error && !closed_;
  }

  /// A request that cannot be parsed is answered here, and nobody else hears of it.
  Task<void> refuse(int status, const std::string& reason) {
    refused_ = true;
    HttpResponse response = error_response(ApiError(status, reason));
    const std::string text = serialize_head(response, false, false, false) + response.body;
    co_await write_all(asio::buffer(text));
  }

  /// Closing a socket with unread bytes resets it, and the client could lose the response: what it
  /// still sends is read away for a while.
  Task<void> linger() {
    lingering_ = true;
    input_.clear();
    room_.cancel();
    boost::system::error_code ignored;
    deadline_ = Clock::now() + kLinger;
    if constexpr (std::is_same_v<Stream, tcp::socket>) {
      stream_.shutdown(tcp::socket::shutdown_send, ignored);
    } else {
      co_await stream_.async_shutdown(token());
    }
    while (!closed_ && !input_ended_) co_await changed_.async_wait(token());
  }

  static auto token() {
    return asio::as_tuple(asio::use_awaitable_t<asio::io_context::executor_type>());
  }

  ConnectionContext& context_;
  const asio::io_context::executor_type executor_;
  Stream stream_;
  std::string input_;           // read, and not parsed yet
  asio::steady_timer changed_;  // cancelled to wake run(): input, the exchange or the state changed
  asio::steady_timer room_;     // cancelled to wake read_all()
  std::shared_ptr<Exchange> exchange_;
  std::string remote_;
  Clock::time_point deadline_ = Clock::time_point::max();
  bool closed_ = false, last_ = false, idle_ = true, in_body_ = false;
  bool input_ended_ = false, refused_ = false, lingering_ = false;
};

}  // namespace

std::shared_ptr<Connection> make_connection(ConnectionContext& context, tcp::socket socket,
                                            asio::ssl::context* tls) {
  const auto executor =
      static_cast<asio::io_context&>(socket.get_executor().context()).get_executor();
  if (tls == nullptr) {
    return std::make_shared<ConnectionImpl<tcp::socket>>(context, std::move(socket), executor);
  }
  return std::make_shared<ConnectionImpl<TlsStream>>(context, TlsStream(std::move(socket), *tls),
                                                     executor);
}

}  // namespace deltacome::server
