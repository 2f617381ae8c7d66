// SPDX-License-Identifier: Apache-2.0
#include "server/image_fetcher.h"

#include <gtest/gtest.h>

#include <array>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/streambuf.hpp>
#include <boost/asio/write.hpp>

#include "deltacome/error.h"

namespace deltacome::server {
namespace {

namespace asio = boost::asio;

/// A host that answers each connection with the same text and remembers what it was asked.
class Host {
 public:
  explicit Host(std::string answer)
      : answer_(std::move(answer)),
        acceptor_(context_, {asio::ip::address_v4::loopback(), 0}),
        thread_([this] { run(); }) {}
  ~Host() {
    asio::ip::tcp::socket last(context_);  // wakes accept()
    stopping_ = true;
    boost::system::error_code ignored;
    (void)last.connect(acceptor_.local_endpoint(), ignored);
    thread_.join();
  }
  std::string at(const std::string& path) const { return "http://127.0.0.1:" + port() + path; }
  std::string port() const { return std::to_string(acceptor_.local_endpoint().port()); }
  std::string asked() const { return asked_; }

 private:
  void run() {
    while (true) {
      asio::ip::tcp::socket socket(context_);
      acceptor_.accept(socket);
      if (stopping_) return;
      boost::system::error_code ignored;
      asio::streambuf head;
      asio::read_until(socket, head, "\r\n\r\n", ignored);
      asked_.assign(asio::buffers_begin(head.data()), asio::buffers_end(head.data()));
      asio::write(socket, asio::buffer(answer_), ignored);
    }
  }

  const std::string answer_;
  asio::io_context context_;
  asio::ip::tcp::acceptor acceptor_;
  std::atomic<bool> stopping_ = false;
  std::string asked_;
  std::thread thread_;
};

std::string error_of(const ImageFetcher& fetcher, const std::string& url) {
  try {
    fetcher.fetch(url);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ImageFetcher, GetsWhatAnAllowedHostHas) {
  const Host host("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbytes");
  const std::vector<std::string> hosts = {"127.0.0.1:" + host.port()};
  const ImageFetcher fetcher(hosts);
  EXPECT_EQ(fetcher.fetch(host.at("/a/b.png?c=d#e")), "bytes");
  EXPECT_TRUE(host.asked().starts_with("GET /a/b.png?c=d HTTP/1.1\r\nHost: " + hosts[0] + "\r\n"))
      << host.asked();
  EXPECT_EQ(fetcher.fetch("HTTP://127.0.0.1:" + host.port()), "bytes");
  EXPECT_TRUE(host.asked().starts_with("GET / HTTP/1.1\r\n")) << host.asked();
}

TEST(ImageFetcher, AsksNobodyElse) {
  const Host host("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  const std::vector<std::string> hosts = {"127.0.0.1", "pictures.example:8080", "Other.Example"};
  const ImageFetcher fetcher(hosts);
  for (const std::string& url :
       {host.at("/"), std::string("http://localhost/"), std::string("https://pictures.example/"),
        std::string("http://127.0.0.1.example/"), std::string("http://pictures.example:80/")})
    EXPECT_NE(error_of(fetcher, url).find("fetches no pictures from"), std::string::npos) << url;
  for (const std::string url :
       {"ftp://127.0.0.1/", "file:///etc/passwd", "127.0.0.1/a", "http://", "http://a@127.0.0.1/",
        "http://[::1]/", "http://127.0.0.1:0/", "http://127.0.0.1:x/", "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nX: y", "http://127.0.0.1\r\n/", ""})
    EXPECT_NE(error_of(fetcher, url).find("is no URL of the form"), std::string::npos) << url;
  EXPECT_EQ(host.asked(), "");
}

TEST(ImageFetcher, OnlyPicturesThatAreThereAndFit) {
  const std::array<std::pair<std::string, std::string>, 4> answers = {
      {{"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
        "status 302"},
       {"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"},
       {"HTTP/1.1 200 OK\r\nContent-Length: 33554433\r\n\r\n", "body limit exceeded"},
       {"SSH-2.0-x\r\n\r\n", "127.0.0.1: "}}};
  for (const auto& [answer, said] : answers) {
    const Host host(answer);
    const std::vector<std::string> hosts = {"127.0.0.1:" + host.port()};
    EXPECT_NE(error_of(ImageFetcher(hosts), host.at("/")).find(said), std::string::npos)
        << error_of(ImageFetcher(hosts), host.at("/"));
  }
  const std::vector<std::string> nobody = {"127.0.0.1:1"};
  EXPECT_NE(error_of(ImageFetcher(nobody), "http://127.0.0.1:1/"), "");
}

TEST(ImageFetcher, HostsHaveNamesAndPorts) {
  for (const std::string host : {"", "http://a", "a/b", "a:", "a:70000", "a b", "[::1]", "*.a"}) {
    const std::vector<std::string> hosts = {host};
    EXPECT_THROW(ImageFetcher{hosts}, Error) << host;
  }
}

}  // namespace
}  // namespace deltacome::server
