// SPDX-License-Identifier: Apache-2.0
#include "server/tenants.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace deltacome::server {

double TokenBucket::level(double per_minute, Clock::time_point now) {
  if (!full_) {
    full_ = true;
    level_ = per_minute;
  } else {
    const double minutes = std::chrono::duration<double, std::ratio<60>>(now - then_).count();
    level_ = std::min(per_minute, level_ + std::max(minutes, 0.) * per_minute);
  }
  then_ = now;
  return level_;
}

int TokenBucket::seconds_until(double level, double amount, double per_minute) {
  const double seconds = std::ceil((amount - level) / per_minute * 60);
  return static_cast<int>(std::clamp(seconds, 1., 3600.));
}

Tenants::Seat Tenants::admit(const Caller& caller, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  Use& use = uses_[caller.tenant];
  if (caller.max_concurrent && use.running >= *caller.max_concurrent)
    throw ApiError(429, fmt::format("{} requests of \"{}\" are running, the most that it may have",
                                    use.running, caller.tenant))
        .retry_after(1);
  if (caller.tokens_per_minute) {
    const auto rate = static_cast<double>(*caller.tokens_per_minute);
    const double level = use.tokens.level(rate, now);
    if (level <= 0)
      throw ApiError(429, fmt::format("\"{}\" has used its {} tokens per minute", caller.tenant,
                                      *caller.tokens_per_minute))
          .retry_after(TokenBucket::seconds_until(level, 1, rate));
  }
  if (caller.requests_per_minute) {
    const auto rate = static_cast<double>(*caller.requests_per_minute);
    const double level = use.requests.level(rate, now);
    if (level < 1)
      throw ApiError(429, fmt::format("\"{}\" has used its {} requests per minute", caller.tenant,
                                      *caller.requests_per_minute))
          .retry_after(TokenBucket::seconds_until(level, 1, rate));
    use.requests.take(1);
  }
  ++use.running;
  return {this, caller.tenant};
}

void Tenants::charge(const Caller& caller, int64_t tokens, Clock::time_point now) {
  if (!caller.tokens_per_minute) return;
  const std::lock_guard lock(mutex_);
  TokenBucket& bucket = uses_[caller.tenant].tokens;
  bucket.level(static_cast<double>(*caller.tokens_per_minute), now);
  bucket.take(static_cast<double>(tokens));
}

std::map<std::string, int64_t> Tenants::running() {
  const std::lock_guard lock(mutex_);
  std::map<std::string, int64_t> out;
  for (const auto& [tenant, use] : uses_) out[tenant] = use.running;
  return out;
}

void Tenants::leave(const std::string& tenant) {
  const std::lock_guard lock(mutex_);
  --uses_[tenant].running;
}

}  // namespace deltacome::server
