// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace deltacome::cuda {

using bf16 = __nv_bfloat16;
using f16 = __half;

__device__ __forceinline__ float to_float(float v) {
  return v;
}
__device__ __forceinline__ float to_float(bf16 v) {
  return __bfloat162float(v);
}
__device__ __forceinline__ float to_float(f16 v) {
  return __half2float(v);
}

template <class T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float v) {
  return __float2bfloat16_rn(v);
}
/// Finite values beyond the range of f16 become its largest, so that a product stays a number.
template <>
__device__ __forceinline__ f16 from_float<f16>(float v) {
  constexpr float kLargest = 65504.0f;
  return __float2half_rn(isfinite(v) ? fminf(fmaxf(v, -kLargest), kLargest) : v);
}
/// Two values, the first in the lower half.
template <class T>
__device__ __forceinline__ uint32_t pack2(float a, float b) {
  const T low = from_float<T>(a), high = from_float<T>(b);
  return uint32_t{*reinterpret_cast<const uint16_t*>(&low)} |
         uint32_t{*reinterpret_cast<const uint16_t*>(&high)} << 16;
}

/// Four neighbouring elements as float; `p` is aligned to four of them.
__device__ __forceinline__ float4 load4(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}
__device__ __forceinline__ float4 load4(const bf16* p) {
  const uint2 bits = *reinterpret_cast<const uint2*>(p);
  return make_float4(__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u),
                     __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000u));
}
__device__ __forceinline__ float4 load4(const f16* p) {
  const uint2 bits = *reinterpret_cast<const uint2*>(p);
  const float2 a = __half22float2(*reinterpret_cast<const __half2*>(&bits.x));
  const float2 b = __half22float2(*reinterpret_cast<const __half2*>(&bits.y));
  return make_float4(a.x, a.y, b.x, b.y);
}

/// Sum, or maximum, over neighbouring groups of kLanes lanes, in all of them.
template <int kLanes>
__device__ __forceinline__ float sum_over(float v) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}
template <int kLanes>
__device__ __forceinline__ float max_over(float v) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
  }
  return v;
}

}  // namespace deltacome::cuda
