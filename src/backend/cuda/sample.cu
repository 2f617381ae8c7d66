// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/sample.h"

namespace deltacome::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;

struct Best {
  float logit;
  int32_t id;
};

/// The order of first_largest(): numbers before NaN, then by size, then the smaller id; of NaNs the
/// last one.
__device__ bool before(const Best& a, const Best& b) {
  if (isnan(a.logit) || isnan(b.logit)) {
    if (isnan(a.logit) && isnan(b.logit)) return a.id > b.id;
    return isnan(b.logit);
  }
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/// Grid (n), block (kThreads).
__global__ void first_largest_kernel(const float* __restrict__ logits, int64_t width,
                                     const int32_t* __restrict__ vocab,
                                     int32_t* __restrict__ tokens) {
  __shared__ Best best_s[kWarps];
  const float* row = logits + blockIdx.x * width;
  const int n = vocab[blockIdx.x], lane = threadIdx.x % 32;
  // A thread without an element has a copy of the first.
  Best best{row[0], 0};
  constexpr int kAtOnce = 8;  // on their way
  for (int first = threadIdx.x; first < n; first += kAtOnce * kThreads) {
    Best others[kAtOnce];
#pragma unroll
    for (int e = 0; e < kAtOnce; ++e) {
      const int i = first + e * kThreads;
      others[e] = i < n ? Best{row[i], i} : Best{row[0], 0};
    }
#pragma unroll
    for (int e = 0; e < kAtOnce; ++e) {
      if (before(others[e], best)) best = others[e];
    }
  }
  const auto reduce = [&best] {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const Best other{__shfl_xor_sync(0xffffffffu, best.logit, step),
                       __shfl_xor_sync(0xffffffffu, best.id, step)};
      if (before(other, best)) best = other;
    }
  };
  reduce();
  if (lane == 0) best_s[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = best_s[lane];
  reduce();
  if (lane == 0) tokens[blockIdx.x] = best.id;
}

}  // namespace

cudaError_t launch_first_largest(const float* logits, int64_t width, const int32_t* vocab, int n,
                                 int32_t* tokens, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  first_largest_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(logits, width, vocab,
                                                                          tokens);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
