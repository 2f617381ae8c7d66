// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "backend/cpu/kernels.h"
#include "core/thread_pool.h"

namespace deltacome::cpu {

/// What every op of the CPU backend needs.
struct Runtime {
  ThreadPool& pool;
  const Kernels& kernels;
};

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// Pieces of parallel_for() for n items of `work` multiply-adds in all: everything in one piece if
/// waking other threads would take longer.
inline int64_t grain_of(int64_t n, int64_t work) {
  constexpr int64_t kWorthWaking = 1 << 18;  // some 10 us of one core, on two cores of a Zen 5
  return work < kWorthWaking ? n : 1;
}

/// Scratch of the calling thread: n floats of undefined contents, valid until its next call.
std::span<float> thread_scratch(int64_t n);

}  // namespace deltacome::cpu
