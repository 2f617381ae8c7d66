// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/runtime.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace deltacome::cpu {

std::span<float> thread_scratch(int64_t n) {
  struct Free {
    void operator()(float* p) const noexcept { std::free(p); }
  };
  thread_local std::unique_ptr<float, Free> scratch;
  thread_local int64_t capacity = 0;
  if (n > capacity) {
    const int64_t padded = ceil_div(n, 16) * 16;  // loads that cross a cache line cost a fifth
    capacity = 0;
    scratch.reset(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(padded) * 4)));
    if (scratch == nullptr) throw std::bad_alloc();
    capacity = padded;
  }
  return {scratch.get(), static_cast<size_t>(n)};
}

}  // namespace deltacome::cpu
