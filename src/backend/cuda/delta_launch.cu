// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <mutex>

#include "backend/cuda/delta_kernels.h"

namespace deltacome::cuda {
namespace {

/// Blocks of a kernel that an SM of the current device runs at once; asks for its shared memory.
cudaError_t most_blocks(const void* kernel, int threads, size_t shared_bytes, int* blocks) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, int> known;
  int device = 0;
  if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
  const std::lock_guard lock(mutex);
  int& n = known[{device, kernel}];
  if (n == 0) {
    cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              static_cast<int>(shared_bytes));
    if (status == cudaSuccess)
      status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, kernel, threads, shared_bytes);
    if (status != cudaSuccess) return status;
    if (n == 0) return cudaErrorLaunchOutOfResources;
  }
  *blocks = n;
  return cudaSuccess;
}

}  // namespace

cudaError_t launch_persistent(void (*kernel)(DeltaCall, DeltaBuffers), int threads,
                              size_t shared_bytes, const DeltaCall& call,
                              const DeltaBuffers& buffers, const DeltaLaunch& how,
                              int blocks_per_sm) {
  int blocks = 0;
  if (const cudaError_t status =
          most_blocks(reinterpret_cast<const void*>(kernel), threads, shared_bytes, &blocks);
      status != cudaSuccess) {
    return status;
  }
  if (blocks_per_sm > 0 && blocks_per_sm < blocks) blocks = blocks_per_sm;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(how.n_sms * blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = how.stream;
  config.attrs = &attribute;
  config.numAttrs = how.overlaps ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, call, buffers);
}

}  // namespace deltacome::cuda
