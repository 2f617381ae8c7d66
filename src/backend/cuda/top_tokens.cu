// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/token_keys.cuh"
#include "backend/cuda/training_kernels.h"

namespace deltacome::cuda {
namespace {

constexpr int kBlock = 512;

/// The k-th largest key of a row by its bytes, highest first: what has the bytes found so far is
/// counted by its next byte. Ends early when all that have them belong to the k.
__device__ uint64_t least_of_top(const float* row, int64_t n_vocab, int k) {
  __shared__ unsigned counts[256];
  __shared__ uint64_t found;
  __shared__ unsigned missing;
  __shared__ int is_done;
  if (threadIdx.x == 0) {
    found = 0;
    missing = static_cast<unsigned>(k);
    is_done = 0;
  }
  uint64_t mask = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = static_cast<int>(threadIdx.x); i < 256; i += kBlock) counts[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n_vocab; i += kBlock) {
      const uint64_t key = key_of(row[i], i);
      if ((key & mask) == found) atomicAdd(&counts[key >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int byte = 255;
      for (; counts[byte] < missing; --byte) missing -= counts[byte];
      found |= static_cast<uint64_t>(byte) << shift;
      is_done = counts[byte] == missing;
    }
    __syncthreads();
    if (is_done != 0) break;
    mask |= uint64_t{255} << shift;
  }
  return found;
}

/// Grid (n), block (kBlock), shared `size` keys, size the power of two from k on.
__global__ void top_tokens_kernel(TopTokens a, int size) {
  extern __shared__ uint64_t keys[];
  __shared__ int n_keys;
  const float* row = a.logits + blockIdx.x * a.width;
  const uint64_t least = least_of_top(row, a.n_vocab, a.k);
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kBlock) keys[i] = 0;
  if (threadIdx.x == 0) n_keys = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < a.n_vocab; i += kBlock) {
    const uint64_t key = key_of(row[i], i);
    if (key >= least) keys[atomicAdd(&n_keys, 1)] = key;
  }
  sort_keys(keys, size);
  const auto largest = static_cast<double>(value_of(keys[0]));
  double sum = 0;
  for (int64_t i = threadIdx.x; i < a.n_vocab; i += kBlock)
    sum += exp(static_cast<double>(row[i]) - largest);
  const double log_sum = largest + log(join_block(sum, Plus()));
  for (int i = static_cast<int>(threadIdx.x); i < a.k; i += kBlock) {
    a.ids[blockIdx.x * int64_t{a.k} + i] = id_of(keys[i]);
    a.log_p[blockIdx.x * int64_t{a.k} + i] =
        static_cast<float>(static_cast<double>(value_of(keys[i])) - log_sum);
  }
}

}  // namespace

cudaError_t launch_top_tokens(const TopTokens& args, cudaStream_t stream) {
  if (args.n == 0) return cudaSuccess;
  int size = 1;
  while (size < args.k) size *= 2;
  const auto bytes = static_cast<size_t>(size) * sizeof(uint64_t);
  top_tokens_kernel<<<static_cast<unsigned>(args.n), kBlock, bytes, stream>>>(args, size);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
