// SPDX-License-Identifier: Apache-2.0
#include "server/image_fetcher.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <exception>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>

#include "core/check.h"
#include "image/decode.h"

namespace deltacome::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::use_awaitable;

constexpr std::chrono::seconds kTimeout{10};

struct Url {
  bool tls = false;
  std::string host = {}, port = {}, target = {};
  bool own_port() const { return port == (tls ? "443" : "80"); }
};

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

/// Letters, digits, '.' and '-': a name, or an IPv4 address.
bool is_host(std::string_view text) {
  return !text.empty() && text.size() <= 253 && std::ranges::all_of(text, [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '-';
  });
}
bool is_port(std::string_view text) {
  int port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size() && port > 0 && port < 65536;
}

Url parse(std::string_view text) {
  Url url;
  const size_t colon = text.find("://");
  const std::string scheme = lower(text.substr(0, colon == std::string_view::npos ? 0 : colon));
  const auto refuse = [&] {
    fail(ErrorCode::kInvalidArgument, "\"{}\" is no URL of the form https://host[:port]/path",
         text.substr(0, 80));
  };
  if (scheme != "http" && scheme != "https") refuse();
  url.tls = scheme == "https";
  text.remove_prefix(colon + 3);
  const size_t end = std::min(text.find_first_of("/?#"), text.size());
  const std::string_view authority = text.substr(0, end);
  const size_t split = std::min(authority.find(':'), authority.size());
  url.host = lower(authority.substr(0, split));
  url.port = split < authority.size() ? std::string(authority.substr(split + 1))
             : url.tls                ? "443"
                                      : "80";
  std::string_view target = text.substr(end);
  target = target.substr(0, target.find('#'));
  url.target = (target.starts_with('/') ? "" : "/") + std::string(target);
  const bool printable = std::ranges::all_of(
      url.target, [](unsigned char c) { return c > 0x20 && c < 0x7f; });  // no line of its own
  if (!is_host(url.host) || !is_port(url.port) || !printable) refuse();
  return url;
}

template <class Stream>
asio::awaitable<std::string> get(Stream& stream, const Url& url) {
  http::request<http::empty_body> request(http::verb::get, url.target, 11);
  request.set(http::field::host, url.own_port() ? url.host : url.host + ":" + url.port);
  request.set(http::field::user_agent, "deltacome");
  request.set(http::field::accept, "image/*");
  request.set(http::field::connection, "close");
  co_await http::async_write(stream, request, use_awaitable);
  beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(ImageLimits().max_bytes);
  co_await http::async_read(stream, buffer, parser, use_awaitable);
  if (parser.get().result_int() != 200)
    fail(ErrorCode::kIo, "{} answered with status {}, expected 200", url.host,
         parser.get().result_int());
  co_return std::move(parser.get().body());
}

asio::awaitable<std::string> get(const Url& url) {
  const auto executor = co_await asio::this_coro::executor;
  asio::ip::tcp::resolver resolver(executor);
  const auto found = co_await resolver.async_resolve(url.host, url.port, use_awaitable);
  if (!url.tls) {
    beast::tcp_stream stream(executor);
    co_await stream.async_connect(found, use_awaitable);
    co_return co_await get(stream, url);
  }
  asio::ssl::context context(asio::ssl::context::tls_client);
  context.set_default_verify_paths();
  context.set_verify_mode(asio::ssl::verify_peer);
  beast::ssl_stream<beast::tcp_stream> stream(executor, context);
  stream.set_verify_callback(asio::ssl::host_name_verification(url.host));
  if (SSL_set_tlsext_host_name(stream.native_handle(), url.host.c_str()) != 1)
    fail(ErrorCode::kInternal, "TLS: the name {} could not be set", url.host);
  co_await beast::get_lowest_layer(stream).async_connect(found, use_awaitable);
  co_await stream.async_handshake(asio::ssl::stream_base::client, use_awaitable);
  co_return co_await get(stream, url);
}

}  // namespace

ImageFetcher::ImageFetcher(std::span<const std::string> hosts) {
  for (const std::string& host : hosts) {
    const size_t split = std::min(host.find(':'), host.size());
    if (!is_host(host.substr(0, split)) ||
        (split < host.size() && !is_port(std::string_view(host).substr(split + 1))))
      fail(ErrorCode::kInvalidArgument,
           "\"{}\" is no host for pictures, expected a name or an IPv4 address, and :port if it is "
           "another than http's or https's",
           host);
    hosts_.insert(lower(host));
  }
}

std::string ImageFetcher::fetch(std::string_view text) const {
  const Url url = parse(text);
  if (!hosts_.contains(url.host + ":" + url.port) && !(url.own_port() && hosts_.contains(url.host)))
    fail(ErrorCode::kInvalidArgument, "the server fetches no pictures from {}:{}", url.host,
         url.port);
  asio::io_context context;
  std::string body;
  std::exception_ptr failure;
  bool done = false;
  asio::co_spawn(context, get(url), [&](std::exception_ptr error, std::string got) {
    failure = error;
    body = std::move(got);
    done = true;
  });
  context.run_for(kTimeout);
  if (!done)
    fail(ErrorCode::kIo, "{} did not answer within {} seconds", url.host, kTimeout.count());
  try {
    if (failure) std::rethrow_exception(failure);
  } catch (const boost::system::system_error& error) {
    fail(ErrorCode::kIo, "{}: {}", url.host, error.code().message());
  }
  return body;
}

}  // namespace deltacome::server
