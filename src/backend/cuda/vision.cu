// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/numbers.cuh"
#include "backend/cuda/vision.h"

namespace deltacome::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

/// Over all threads of a block, in all of them; `scratch` [kWarps] is free again afterwards.
__device__ float block_sum(float value, float* scratch) {
  value = sum_over<32>(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += scratch[i];
  __syncthreads();
  return sum;
}
__device__ float block_max(float value, float* scratch) {
  value = max_over<32>(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  float largest = scratch[0];
  for (int i = 1; i < kWarps; ++i) largest = fmaxf(largest, scratch[i]);
  __syncthreads();
  return largest;
}

__device__ float element_at(const void* data, Element type, int64_t i) {
  switch (type) {
    case Element::kBf16:
      return to_float(static_cast<const bf16*>(data)[i]);
    case Element::kF16:
      return to_float(static_cast<const f16*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}

/// A block a row: grid (n_rows), block (kThreads).
__global__ void layer_norm_kernel(const LayerNorm a) {
  __shared__ float scratch[kWarps];
  const float* x = a.x + blockIdx.x * a.d;
  float* y = a.y + blockIdx.x * a.d;
  float sum = 0;
  for (int64_t i = threadIdx.x; i < a.d; i += kThreads) sum += x[i];
  const float mean = block_sum(sum, scratch) / static_cast<float>(a.d);
  float squares = 0;
  for (int64_t i = threadIdx.x; i < a.d; i += kThreads) squares += (x[i] - mean) * (x[i] - mean);
  const float variance = block_sum(squares, scratch) / static_cast<float>(a.d);
  const float by = 1.0f / sqrtf(variance + a.eps);
  for (int64_t i = threadIdx.x; i < a.d; i += kThreads) {
    y[i] = (x[i] - mean) * by * element_at(a.weight, a.weight_type, i) +
           element_at(a.bias, a.bias_type, i);
  }
}

__device__ float gelu(int form, float x) {
  switch (form) {
    case 0:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case 1:
      return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    default:
      return x / (1.0f + expf(-1.702f * x));
  }
}

/// Grid-stride loop.
__global__ void gelu_kernel(int form, float* x, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    x[i] = gelu(form, x[i]);
  }
}

/// A block a query and head: grid (n, n_heads), block (kThreads), shared: n scores. A warp takes
/// one key at a time, then a thread one column of the values.
__global__ void full_attention_kernel(const FullAttention a) {
  extern __shared__ float scores[];  // [n]
  __shared__ float scratch[kWarps];
  const int64_t width = a.n_heads * a.head_dim, column = blockIdx.y * a.head_dim;
  const float* q = a.q + blockIdx.x * width + column;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float scale = rsqrtf(static_cast<float>(a.head_dim));
  float largest = -INFINITY;
  for (int64_t j = warp; j < a.n; j += kWarps) {
    const float* k = a.k + j * width + column;
    float dot = 0;
    for (int64_t i = lane; i < a.head_dim; i += 32) dot += q[i] * k[i];
    dot = sum_over<32>(dot) * scale;
    if (lane == 0) scores[j] = dot;
    largest = fmaxf(largest, dot);
  }
  largest = block_max(largest, scratch);  // a barrier: all scores are there
  float sum = 0;
  for (int64_t j = threadIdx.x; j < a.n; j += kThreads)
    sum += scores[j] = expf(scores[j] - largest);
  sum = block_sum(sum, scratch);
  for (int64_t i = threadIdx.x; i < a.head_dim; i += kThreads) {
    float mixed = 0;
    for (int64_t j = 0; j < a.n; ++j) mixed += scores[j] * a.v[j * width + column + i];
    a.out[blockIdx.x * width + column + i] = mixed / sum;
  }
}

}  // namespace

cudaError_t launch_layer_norm(const LayerNorm& args, cudaStream_t stream) {
  if (args.n_rows == 0) return cudaSuccess;
  layer_norm_kernel<<<static_cast<unsigned>(args.n_rows), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t launch_gelu(int form, float* x, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  const int64_t blocks = (n + kThreads - 1) / kThreads;
  gelu_kernel<<<static_cast<unsigned>(blocks < 4096 ? blocks : 4096), kThreads, 0, stream>>>(form,
                                                                                             x, n);
  return cudaGetLastError();
}

cudaError_t launch_full_attention(const FullAttention& args, cudaStream_t stream) {
  if (args.n == 0) return cudaSuccess;
  if (args.n > kMaxFullAttentionRows) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(args.n), static_cast<unsigned>(args.n_heads));
  // Whole 16 bytes: compilers read scores so.
  const size_t shared = (static_cast<size_t>(args.n) + 3) / 4 * 4 * sizeof(float);
  full_attention_kernel<<<grid, kThreads, shared, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
