// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace deltacome {

/// Runs callbacks on a thread of its own, one at a time, in the order in which they were posted: a
/// slow one never holds up who posts (E1). Thread-safe.
class Deliveries {
 public:
  using Call = std::function<void()>;  // must not throw

  Deliveries();
  /// Runs what has been posted, then ends.
  ~Deliveries();

  /// Empties `calls`; if there is no memory for them, throws and leaves them there.
  void post(std::vector<Call>& calls);
  void post(Call call);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Call> calls_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace deltacome
