// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace deltacome::bench {

/// Reads `bytes` once with 16-byte loads; the roof of any kernel that streams weights.
cudaError_t launch_read(const void* data, size_t bytes, int n_sms, int* out, cudaStream_t stream);

}  // namespace deltacome::bench
