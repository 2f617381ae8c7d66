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
  for (int64_t c = lane; c < segment.array.cols; c += 32) {
    float w = element_at(segment.array, row, c);
    if (segment.gains != nullptr) w *= segment.gains[c];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) sum[t] = fmaf(w, x[t][c], sum[t]);
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
  for (int64_t k = 0; k < segment.array.rows; ++k) {
    const float u = element_at(segment.array, k, column);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const int64_t at = int64_t{first_token + min(t, n - 1)} * segment.in_stride;
      sum[t] = fmaf(u, buffers.z[segment.in + at + k], sum[t]);
    }
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
    plain_kernel(const DeltaCall* __restrict__ call, const __grid_constant__ DeltaBuffers buffers) {
  const WorkList<PlainSegment> list = kComponents ? call->plain_expand : call->plain;
  release_dependents();
  wait_for_inputs();
  if (kComponents) clear_next_z(buffers);
  const int n_warps = static_cast<int>(gridDim.x) * kWarps;
  for (int unit = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x / 32);
       unit < list.units; unit += n_warps) {
    const int item = item_of(list, unit);
    const PlainSegment& segment = list.items[item];
    const int64_t at = unit - list.starts[item];
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

cudaError_t launch_plain(const DeltaCall* call, const DeltaBuffers& buffers, bool components,
                         const DeltaLaunch& how) {
  return launch_persistent(components ? plain_kernel<true> : plain_kernel<false>, 32 * kWarps, 0,
                           call, buffers, how);
}

}  // namespace deltacome::cuda
