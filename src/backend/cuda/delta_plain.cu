// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta_device.cuh"
#include "backend/cuda/delta_kernels.h"
#include "backend/cuda/plain_array.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kTokens = 4;  // that one decoded element is multiplied with

__device__ float* plain_result(const DeltaBuffers& buffers, const PlainSegment& segment, int t) {
  if (segment.target < 0) return buffers.z + segment.out + int64_t{t} * segment.out_stride;
  const int64_t row = buffers.rows[segment.first_token + t];
  return buffers.y[segment.target] + row * buffers.y_stride[segment.target] + segment.first_out;
}

__device__ bool is_half(const PlainArray& a) {
  return a.kind == PlainArray::Kind::kF16 || a.kind == PlainArray::Kind::kBf16;
}
/// Two 16-bit numbers of a word.
__device__ void numbers_of(uint32_t word, bool bf16, float* out) {
  if (bf16) {
    out[0] = __uint_as_float(word << 16);
    out[1] = __uint_as_float(word & 0xffff0000u);
  } else {
    const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&word));
    out[0] = both.x;
    out[1] = both.y;
  }
}

/// One row of the array times kTokens tokens, by a warp; lanes take columns in turn.
__device__ void multiply_row(const DeltaBuffers& buffers, const PlainSegment& segment, int64_t row,
                             int first_token) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int n = min(kTokens, segment.n_tokens - first_token);
  const float* x[kTokens];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const int token = segment.first_token + first_token + min(t, n - 1);
    x[t] = buffers.x + int64_t{buffers.rows[token]} * buffers.x_stride;
  }
  float sum[kTokens] = {};
  if (is_half(segment.array) && segment.gains == nullptr && segment.array.cols % 8 == 0 &&
      buffers.x_stride % 4 == 0) {
    const bool bf16 = segment.array.kind == PlainArray::Kind::kBf16;
    const auto* w =
        reinterpret_cast<const uint4*>(segment.array.low) + row * segment.array.cols / 8;
#pragma unroll 2
    for (int64_t c = 8 * lane; c < segment.array.cols; c += 256) {
      const uint4 words = w[c / 8];
      float v[8];
      numbers_of(words.x, bf16, v);
      numbers_of(words.y, bf16, v + 2);
      numbers_of(words.z, bf16, v + 4);
      numbers_of(words.w, bf16, v + 6);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float4 low = *reinterpret_cast<const float4*>(x[t] + c);
        const float4 high = *reinterpret_cast<const float4*>(x[t] + c + 4);
        sum[t] = fmaf(v[0], low.x, fmaf(v[1], low.y, fmaf(v[2], low.z, fmaf(v[3], low.w, sum[t]))));
        sum[t] =
            fmaf(v[4], high.x, fmaf(v[5], high.y, fmaf(v[6], high.z, fmaf(v[7], high.w, sum[t]))));
      }
    }
  } else {
    for (int64_t c = lane; c < segment.array.cols; c += 32) {
      float w = element_at(segment.array, row, c);
      if (segment.gains != nullptr) w *= segment.gains[c];
#pragma unroll
      for (int t = 0; t < kTokens; ++t) sum[t] = fmaf(w, x[t][c], sum[t]);
    }
  }
  const float factor = segment.factor == nullptr ? 1.0f : segment.factor[row];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    for (int step = 16; step > 0; step /= 2) sum[t] += __shfl_xor_sync(~0u, sum[t], step);
    if (lane != t || t >= n) continue;
    float* y = plain_result(buffers, segment, first_token + t) + row;
    *y = segment.assigns ? sum[t] * factor : *y + sum[t] * factor;
  }
}

/// 32 columns of U^T times kTokens tokens' z, by a warp; a lane has a column.
__device__ void multiply_columns(const DeltaBuffers& buffers, const PlainSegment& segment,
                                 int64_t first, int first_token) {
  const int64_t column = first + threadIdx.x % 32;
  if (column >= segment.array.cols) return;
  const int n = min(kTokens, segment.n_tokens - first_token);
  float sum[kTokens] = {};
  const auto add = [&](int64_t k, float u) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const int64_t at = int64_t{first_token + min(t, n - 1)} * segment.in_stride;
      sum[t] = fmaf(u, buffers.z[segment.in + at + k], sum[t]);
    }
  };
  if (segment.array.kind == PlainArray::Kind::kF16) {
    const auto* u = reinterpret_cast<const uint16_t*>(segment.array.low) + column;
#pragma unroll 8
    for (int64_t k = 0; k < segment.array.rows; ++k) add(k, half_at(u, k * segment.array.cols));
  } else {
    for (int64_t k = 0; k < segment.array.rows; ++k) add(k, element_at(segment.array, k, column));
  }
  const float factor = segment.factor == nullptr ? 1.0f : segment.factor[column];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    // Other tiers of the matrix add to the same results.
    if (t < n) atomicAdd(plain_result(buffers, segment, first_token + t) + column, sum[t] * factor);
  }
}

/// Arrays that are multiplied in float32, by the stored bytes. Grid: any, block (32 * kWarps); a
/// warp takes rows, or 32 columns, of all segments in turn.
template <bool kComponents>
__global__ void __launch_bounds__(32 * kWarps)
    plain_kernel(const __grid_constant__ DeltaCall call,
                 const __grid_constant__ DeltaBuffers buffers) {
  const Work<PlainSegment> list = kComponents ? open(call.plain_expand) : open(call.plain);
  release_dependents();
  wait_for_inputs();
  if (kComponents) clear_next_z(buffers);
  const int n_warps = static_cast<int>(gridDim.x) * kWarps;
  for (int unit = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x / 32);
       unit < list.units; unit += n_warps) {
    const int item = item_of(list, unit);
    const PlainSegment& segment = list.items[item];
    const int64_t at = unit - list.starts[item];
    if (kComponents && buffers.tier >= 0 && segment.tier != buffers.tier) continue;
    for (int t = 0; t < segment.n_tokens; t += kTokens) {
      if (kComponents) {
        multiply_columns(buffers, segment, 32 * at, t);
      } else {
        multiply_row(buffers, segment, at, t);
      }
    }
  }
}

}  // namespace

cudaError_t launch_plain(const DeltaCall& call, const DeltaBuffers& buffers, bool components,
                         const DeltaLaunch& how) {
  return launch_persistent(components ? plain_kernel<true> : plain_kernel<false>, 32 * kWarps, 0,
                           call, buffers, how);
}

}  // namespace deltacome::cuda
