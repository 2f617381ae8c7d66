// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "backend/cuda/numbers.cuh"
#include "backend/cuda/paged.h"

namespace deltacome::cuda {

constexpr int kBlockTokens = 16;  // kKvBlock

__device__ __forceinline__ float4 load4(const int8_t* p) {
  const char4 c = *reinterpret_cast<const char4*>(p);
  return make_float4(c.x, c.y, c.z, c.w);
}

/// Elements of one head of one token in a cache.
template <class T, int kHeadDim>
inline constexpr int kHeadStride = kHeadDim + (sizeof(T) == 1 ? 4 : 0);

/// What a head's elements are to be multiplied by.
template <class T, int kHeadDim>
__device__ __forceinline__ float head_scale(const T* head) {
  if constexpr (sizeof(T) == 1) {
    return *reinterpret_cast<const float*>(head + kHeadDim);
  } else {
    return 1.0f;
  }
}

/// First element of a head of token `key` of the sequence whose blocks are `table`.
template <class T, int kHeadDim>
__device__ __forceinline__ const T* head_of(const void* cache, const int32_t* table, int key,
                                            int n_kv_heads, int kv_head) {
  const int64_t token = int64_t{table[key / kBlockTokens]} * kBlockTokens + key % kBlockTokens;
  return static_cast<const T*>(cache) + (token * n_kv_heads + kv_head) * kHeadStride<T, kHeadDim>;
}

/// Weights are exp2((score - largest) * scale * log2(e)): the factor goes into the query.
template <int kHeadDim>
__device__ __forceinline__ float query_scale() {
  return 1.44269504088896340736f * rsqrtf(static_cast<float>(kHeadDim));
}

__device__ __forceinline__ float dot4(float4 a, float4 b, float sum) {
  sum = fmaf(a.x, b.x, sum);
  sum = fmaf(a.y, b.y, sum);
  sum = fmaf(a.z, b.z, sum);
  return fmaf(a.w, b.w, sum);
}
__device__ __forceinline__ void scale4(float4& a, float by) {
  a.x *= by;
  a.y *= by;
  a.z *= by;
  a.w *= by;
}
__device__ __forceinline__ void add_scaled4(float4& a, float by, float4 b) {
  a.x = fmaf(by, b.x, a.x);
  a.y = fmaf(by, b.y, a.y);
  a.z = fmaf(by, b.z, a.z);
  a.w = fmaf(by, b.w, a.w);
}

/// What a running sum with largest score `from` is multiplied by when the largest becomes `to`.
__device__ __forceinline__ float rescale(float from, float to) {
  return from == -INFINITY ? 0.0f : exp2f(from - to);
}

/// body(pointer to the cache's type, its head size as a constant), for the kernels that there are.
template <class T, class Body>
cudaError_t for_head_dim(int head_dim, const Body& body) {
  const T* element = nullptr;
  switch (head_dim) {
    case 16:
      return body(element, std::integral_constant<int, 16>());
    case 32:
      return body(element, std::integral_constant<int, 32>());
    case 64:
      return body(element, std::integral_constant<int, 64>());
    case 80:
      return body(element, std::integral_constant<int, 80>());
    case 96:
      return body(element, std::integral_constant<int, 96>());
    case 128:
      return body(element, std::integral_constant<int, 128>());
    default:
      return cudaErrorInvalidValue;
  }
}
template <class Body>
cudaError_t for_cache(Element type, int head_dim, const Body& body) {
  switch (type) {
    case Element::kF32:
      return for_head_dim<float>(head_dim, body);
    case Element::kBf16:
      return for_head_dim<bf16>(head_dim, body);
    case Element::kInt8:
      return for_head_dim<int8_t>(head_dim, body);
    case Element::kF16:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace deltacome::cuda
