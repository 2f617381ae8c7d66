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
  /// `on_cpu`: memory and threads are the host's. Otherwise the backend's ops are what is measured:
  /// y += x for memory, a product with bf16 weights.
  Roofs(Backend& backend, bool on_cpu, int n_threads);
  /// Measures once more; the best counts.
  void measure_read(Stream& stream);
  void measure_gemm(Stream& stream);
  double read_gb_per_s() const noexcept { return read_gb_per_s_; }
  double gemm_gflop_per_s() const noexcept { return gemm_gflop_per_s_; }

 private:
  void read_host();
  void read_device(Stream& stream);
  double gemm_seconds(Stream& stream);

  Backend& backend_;
  bool on_cpu_;
  ThreadPool pool_;
  Tensor x_, y_;  // on the device
  std::vector<uint64_t> buffer_;
  volatile uint64_t sink_ = 0;
  double read_gb_per_s_ = 0;
  double gemm_gflop_per_s_ = 0;
};

}  // namespace deltacome
