// SPDX-License-Identifier: Apache-2.0
#include "core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <exception>

#include "core/check.h"

namespace deltacome {
namespace {

// Sleeping and waking costs 5 to 50 us, as much as a region of a decode step: threads look for the
// next region, or the end of one, this often before they sleep (some 20 us).
constexpr int kLooks = 1000;

void pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
void look_for(const Condition& condition) {
  for (int i = 0; i < kLooks && !condition(); ++i) pause();
}

}  // namespace

struct ThreadPool::Job {
  const std::function<void(int64_t, int64_t)>* body;
  int64_t n;
  int64_t grain;
  std::atomic<int64_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;
};

ThreadPool::ThreadPool(int n_threads) {
  if (n_threads <= 0)
    n_threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  try {
    for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this] { run_worker(); });
  } catch (const std::exception& error) {
    const size_t started = workers_.size() + 1;
    stop();  // waiting threads must be gone before the members that they wait on
    fail(ErrorCode::kOutOfMemory, "cannot start {} threads, only {}: {}", n_threads, started,
         error.what());
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work(Job& job) noexcept {
  for (;;) {
    const int64_t begin = job.next.fetch_add(job.grain, std::memory_order_relaxed);
    if (begin >= job.n) return;
    try {
      (*job.body)(begin, std::min(begin + job.grain, job.n));
    } catch (...) {
      const std::lock_guard lock(job.error_mutex);
      if (!job.error) job.error = std::current_exception();
      job.next.store(job.n, std::memory_order_relaxed);
    }
  }
}

void ThreadPool::run_worker() {
  uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    lock.unlock();
    look_for([&] { return generation_.load(std::memory_order_relaxed) != seen; });
    lock.lock();
    wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
    if (stopping_) return;
    seen = generation_;
    Job* job = job_;
    if (job == nullptr) continue;  // woke after the job had ended
    ++active_;
    lock.unlock();
    work(*job);
    lock.lock();
    if (--active_ == 0) done_.notify_one();
  }
}

void ThreadPool::parallel_for(int64_t n, int64_t grain,
                              const std::function<void(int64_t, int64_t)>& body) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (workers_.empty() || n <= grain) {
    for (int64_t begin = 0; begin < n; begin += grain) body(begin, std::min(begin + grain, n));
    return;
  }
  Job job{.body = &body, .n = n, .grain = grain, .error_mutex = {}, .error = {}};
  {
    const std::lock_guard lock(mutex_);
    job_ = &job;
    ++generation_;
  }
  wake_.notify_all();
  work(job);
  std::unique_lock lock(mutex_);
  job_ = nullptr;  // nobody joins from here on
  lock.unlock();
  look_for([&] { return active_ == 0; });
  lock.lock();
  done_.wait(lock, [&] { return active_ == 0; });
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace deltacome
