// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace deltacome::cuda {

// Asynchronous copies into shared memory, in groups of a thread's own.

/// Begins a copy of 16 bytes, with what the L2 cache should do with them.
__device__ inline void copy16(uint4* shared, const uint4* global, uint64_t policy) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to),
               "l"(global), "l"(policy)
               : "memory");
}
/// The same of a longer row: its next bytes come into the L2 cache as well. Zeros if not `inside`.
__device__ inline void copy16_of_row(uint4* shared, const void* global, bool inside,
                                     uint64_t policy) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile(
      "cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0], [%1], 16, %2, %3;" ::"r"(to),
      "l"(global), "r"(inside ? 16 : 0), "l"(policy)
      : "memory");
}
/// The same of 4 bytes, which others will read as well.
__device__ inline void copy4(uint32_t* shared, const uint32_t* global) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(global) : "memory");
}
template <bool kReadOnce>
__device__ inline uint64_t cache_policy() {
  uint64_t policy;
  if (kReadOnce) {
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  } else {
    asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
  }
  return policy;
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most kPending of this thread's groups of copies are on their way.
template <int kPending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace deltacome::cuda
