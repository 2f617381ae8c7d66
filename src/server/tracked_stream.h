// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server/router.h"

namespace deltacome::server {

/// A stream that adds what every response has, and tells how the request went when everybody has
/// let go of it.
class TrackedStream : public ResponseStream {
 public:
  using Finished = std::function<void(const RequestRecord&, const std::string& route)>;
  TrackedStream(std::shared_ptr<ResponseStream> stream, std::shared_ptr<RequestRecord> record,
                Finished finished)
      : stream_(std::move(stream)), record_(std::move(record)), finished_(std::move(finished)) {}
  ~TrackedStream() override {
    if (record_->status == 0) record_->status = 499;  // nobody was left to be answered
    finished_(*record_, route_);
  }

  void set_route(std::string route) { route_ = std::move(route); }

  void post(std::function<void()> f) override { stream_->post(std::move(f)); }
  void send(HttpResponse response) override {
    note(response);
    stream_->send(std::move(response));
  }
  void begin(HttpResponse head) override {
    note(head);
    stream_->begin(std::move(head));
  }
  bool write(std::string_view piece) override { return stream_->write(piece); }
  void end() override { stream_->end(); }
  void on_gone(std::function<void()> f) override {
    stream_->on_gone([record = record_, f = std::move(f)] {
      record->gone = true;
      f();
    });
  }

 private:
  void note(HttpResponse& response) {
    record_->status = response.status;
    response.headers.emplace_back("X-Request-Id", record_->id);
  }

  const std::shared_ptr<ResponseStream> stream_;
  const std::shared_ptr<RequestRecord> record_;
  const Finished finished_;
  std::string route_ = "unknown";
};

}  // namespace deltacome::server
