// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace deltacome {

/// A fixed set of threads that run index ranges; the calling thread works too.
class ThreadPool {
 public:
  /// n_threads >= 1 counts the caller; 0 means one per core. Throws kOutOfMemory if the system
  /// refuses a thread.
  explicit ThreadPool(int n_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const noexcept { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(begin, end) over disjoint pieces of [0, n), each at most `grain` long, and returns
  /// when all are done. Which thread runs a piece is not fixed, so a piece's result must not depend
  /// on it. The first exception of a piece is rethrown here. One caller at a time; a body must not
  /// call back into the pool.
  void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

 private:
  struct Job;
  void work(Job& job) noexcept;
  void run_worker();
  void stop() noexcept;

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  Job* job_ = nullptr;
  std::atomic<uint64_t> generation_ = 0;  // written under mutex_
  std::atomic<int> active_ = 0;           // raised under mutex_
  bool stopping_ = false;
};

}  // namespace deltacome
