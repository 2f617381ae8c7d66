// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "core/thread_pool.h"

namespace deltacome {

/// What the machine can do, measured beside what is compared with it.
class Roofs {
 public:
  Roofs(Backend& backend, int n_threads);
  /// Measures once more; the best counts.
  void measure_read();
  void measure_gemm(Stream& stream);
  double read_gb_per_s() const noexcept { return read_gb_per_s_; }
  double gemm_gflop_per_s() const noexcept { return gemm_gflop_per_s_; }

 private:
  Backend& backend_;
  ThreadPool pool_;
  std::vector<uint64_t> buffer_;
  volatile uint64_t sink_ = 0;
  double read_gb_per_s_ = 0;
  double gemm_gflop_per_s_ = 0;
};

}  // namespace deltacome
