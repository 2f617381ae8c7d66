// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <source_location>

#include "core/check.h"

namespace deltacome::cuda {

/// Throws Error(kDevice) naming the failed call and its caller. Never for use in a destructor.
inline void check(cudaError_t status, const char* call,
                  std::source_location where = std::source_location::current()) {
  if (status == cudaSuccess) return;
  fail(status == cudaErrorMemoryAllocation ? ErrorCode::kOutOfMemory : ErrorCode::kDevice,
       "CUDA: {} failed: {} ({}:{})", call, cudaGetErrorString(status), where.file_name(),
       where.line());
}

}  // namespace deltacome::cuda

#define DELTACOME_CUDA_CHECK(call) ::deltacome::cuda::check((call), #call)
