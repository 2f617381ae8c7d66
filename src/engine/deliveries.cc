// SPDX-License-Identifier: Apache-2.0
#include "engine/deliveries.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace deltacome {

Deliveries::Deliveries() : thread_([this] { run(); }) {}

Deliveries::~Deliveries() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Deliveries::post(std::vector<Call>& calls) {
  if (calls.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    if (calls_.empty()) {
      calls_.swap(calls);
    } else {
      const size_t n = calls_.size() + calls.size();
      if (calls_.capacity() < n) calls_.reserve(std::max(n, 2 * calls_.capacity()));
      calls_.insert(calls_.end(), std::make_move_iterator(calls.begin()),
                    std::make_move_iterator(calls.end()));
    }
  }
  calls.clear();
  wake_.notify_all();
}

void Deliveries::post(Call call) {
  std::vector<Call> calls;
  calls.push_back(std::move(call));
  post(calls);
}

void Deliveries::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !calls_.empty(); });
    if (calls_.empty()) return;
    std::vector<Call> calls;
    calls.swap(calls_);
    lock.unlock();
    for (const Call& call : calls) call();
    calls.clear();  // what they own ends here, not under the lock
    lock.lock();
  }
}

}  // namespace deltacome
