// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include "read_roof.h"

namespace deltacome::bench {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 4;  // on their way at once

__global__ void __launch_bounds__(kThreads)
    read_kernel(const uint4* __restrict__ data, size_t n, int* out) {
  uint32_t sum = 0;
  const size_t step = size_t{gridDim.x} * kThreads;
  size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; i + (kLoads - 1) * step < n; i += kLoads * step) {
    uint4 v[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) v[k] = __ldcs(data + i + k * step);
#pragma unroll
    for (int k = 0; k < kLoads; ++k) sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  for (; i < n; i += step) sum ^= data[i].x;
  if (sum == 0x12345678u) *out = 1;  // never: keeps the loads
}

}  // namespace

cudaError_t launch_read(const void* data, size_t bytes, int n_sms, int* out, cudaStream_t stream) {
  read_kernel<<<static_cast<unsigned>(8 * n_sms), kThreads, 0, stream>>>(
      static_cast<const uint4*>(data), bytes / sizeof(uint4), out);
  return cudaGetLastError();
}

}  // namespace deltacome::bench
