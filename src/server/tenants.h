// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "server/errors.h"
#include "server/keys.h"

namespace deltacome::server {

/// An allowance that fills up evenly over a minute, up to a minute's worth. May be overdrawn.
class TokenBucket {
 public:
  /// What it holds now.
  double level(double per_minute, Clock::time_point now);
  void take(double amount) { level_ -= amount; }
  /// Seconds until it holds `amount`.
  static int seconds_until(double level, double amount, double per_minute);

 private:
  double level_ = 0;
  bool full_ = false;  // whether it was ever filled
  Clock::time_point then_ = {};
};

/// What each tenant uses, against its limits. Thread-safe.
class Tenants {
 public:
  /// A request counts while one of these is held.
  class Seat {
   public:
    Seat() = default;
    Seat(Tenants* tenants, std::string tenant) : tenants_(tenants), tenant_(std::move(tenant)) {}
    Seat(Seat&& other) noexcept
        : tenants_(std::exchange(other.tenants_, nullptr)), tenant_(std::move(other.tenant_)) {}
    Seat& operator=(Seat&&) = delete;
    ~Seat() {
      if (tenants_ != nullptr) tenants_->leave(tenant_);
    }

   private:
    Tenants* tenants_ = nullptr;
    std::string tenant_;
  };

  /// Throws ApiError(429) with Retry-After if a limit is reached. A tenant that has used more
  /// tokens than its allowance waits until it is made up for.
  Seat admit(const Caller& caller, Clock::time_point now);
  /// Tokens that a request of it has used.
  void charge(const Caller& caller, int64_t tokens, Clock::time_point now);
  /// Requests that each tenant has running.
  std::map<std::string, int64_t> running();

 private:
  struct Use {
    TokenBucket requests, tokens;
    int64_t running = 0;
  };
  void leave(const std::string& tenant);

  std::mutex mutex_;
  std::map<std::string, Use> uses_;
};

}  // namespace deltacome::server
