// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/io_context.hpp>

#include "server/http.h"

namespace deltacome::server {

/// One request's response, between handler and connection. Everything but post() and send() happens
/// on the connection's thread.
class Exchange : public ResponseStream, public std::enable_shared_from_this<Exchange> {
 public:
  /// `wake` tells the connection that there is something to write.
  Exchange(boost::asio::io_context::executor_type executor, int64_t buffer_limit,
           std::function<void()> wake);

  void post(std::function<void()> f) override;
  void send(HttpResponse response) override;
  void begin(HttpResponse head) override;
  bool write(std::string_view piece) override;
  void end() override;
  void on_gone(std::function<void()> f) override;

  // The connection's side.
  bool has_head() const noexcept { return has_head_; }
  bool streams() const noexcept { return streams_; }
  bool ended() const noexcept { return ended_; }
  bool overflowed() const noexcept { return overflowed_; }
  bool empty() const noexcept { return pending_.empty(); }
  const HttpResponse& head() const noexcept { return head_; }
  /// Moves what is to be written into `out`, which is emptied first.
  void take(std::string& out);
  /// The client has gone, or the connection closes.
  void gone();
  /// The response has been written whole: nothing more will happen.
  void finish();

 private:
  boost::asio::io_context::executor_type executor_;
  const size_t buffer_limit_;
  std::function<void()> wake_;  // empty once the connection is not interested any more
  std::function<void()> on_gone_;
  HttpResponse head_;
  std::string pending_;
  bool has_head_ = false, streams_ = false, ended_ = false, overflowed_ = false;
  bool gone_ = false, finished_ = false;
};

}  // namespace deltacome::server
