// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

namespace deltacome::cuda {

// Programmatic dependent launch (sm_90): a kernel may begin while the one before it still runs. On
// older devices kernels follow each other as ever.

/// Lets the next kernel of the stream begin with what does not depend on this one.
__device__ inline void release_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
/// Waits until everything before this kernel in the stream is done and visible.
__device__ inline void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Launches a kernel that may begin early: until wait_for_inputs() it reads nothing but what was
/// there long before, such as weights. `overlaps`: the device is of sm_90 or later.
template <class... Params, class... Args>
cudaError_t launch_early(bool overlaps, size_t shared_bytes, void (*kernel)(Params...), dim3 grid,
                         int block, cudaStream_t stream, const Args&... args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlaps ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, Params(args)...);
}
template <class... Params, class... Args>
cudaError_t launch_early(bool overlaps, void (*kernel)(Params...), dim3 grid, int block,
                         cudaStream_t stream, const Args&... args) {
  return launch_early(overlaps, 0, kernel, grid, block, stream, args...);
}

}  // namespace deltacome::cuda
