// SPDX-License-Identifier: Apache-2.0
#include "server/workers.h"

#include <algorithm>

namespace deltacome::server {

Workers::Workers(int n_threads, size_t max_queued) : max_queued_(max_queued) {
  for (int i = 0; i < std::max(1, n_threads); ++i) threads_.emplace_back([this] { run(); });
}

Workers::~Workers() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool Workers::try_post(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    if (jobs_.size() >= max_queued_) return false;
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
  return true;
}

void Workers::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    job = {};  // what it holds goes before the lock comes back
    lock.lock();
  }
}

}  // namespace deltacome::server
