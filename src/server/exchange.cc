// SPDX-License-Identifier: Apache-2.0
#include "server/exchange.h"

#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>

namespace deltacome::server {

Exchange::Exchange(boost::asio::io_context::executor_type executor, int64_t buffer_limit,
                   std::function<void()> wake)
    : executor_(std::move(executor)),
      buffer_limit_(static_cast<size_t>(buffer_limit)),
      wake_(std::move(wake)) {}

void Exchange::post(std::function<void()> f) {
  boost::asio::post(executor_, std::move(f));
}

void Exchange::send(HttpResponse response) {
  boost::asio::dispatch(executor_,
                        [self = shared_from_this(), response = std::move(response)]() mutable {
                          if (self->has_head_ || self->gone_) return;
                          self->head_ = std::move(response);
                          self->has_head_ = self->ended_ = true;
                          if (self->wake_) self->wake_();
                        });
}

void Exchange::begin(HttpResponse head) {
  if (has_head_ || gone_) return;
  head_ = std::move(head);
  has_head_ = streams_ = true;
  if (wake_) wake_();
}

bool Exchange::write(std::string_view piece) {
  if (gone_ || ended_ || overflowed_) return false;
  if (pending_.size() + piece.size() > buffer_limit_) {
    overflowed_ = true;
    pending_ = {};
    if (wake_) wake_();
    return false;
  }
  pending_ += piece;
  if (wake_) wake_();
  return true;
}

void Exchange::end() {
  ended_ = true;
  if (wake_) wake_();
}

void Exchange::on_gone(std::function<void()> f) {
  boost::asio::dispatch(executor_, [self = shared_from_this(), f = std::move(f)]() mutable {
    if (self->gone_) {
      f();
    } else if (!self->finished_) {
      self->on_gone_ = std::move(f);
    }
  });
}

void Exchange::take(std::string& out) {
  out.clear();
  out.swap(pending_);
}

void Exchange::gone() {
  if (gone_ || finished_) return;
  gone_ = true;
  wake_ = {};
  pending_ = {};
  if (const auto f = std::exchange(on_gone_, {})) f();
}

void Exchange::finish() {
  finished_ = true;
  wake_ = {};
  on_gone_ = {};
}

}  // namespace deltacome::server
