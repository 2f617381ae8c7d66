// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace deltacome::server {

/// Threads for what blocks, behind a bounded queue.
class Workers {
 public:
  Workers(int n_threads, size_t max_queued);
  /// Ends when all that was accepted is done.
  ~Workers();

  /// False if the queue is full. `job` must not throw.
  bool try_post(std::function<void()> job);

 private:
  void run();

  const size_t max_queued_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace deltacome::server
