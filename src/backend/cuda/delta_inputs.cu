// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta_device.cuh"
#include "backend/cuda/delta_kernels.h"
#include "backend/cuda/rotation.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kThreads = kRotationThreads;
constexpr int kMaxChunk = 4096;  // columns in shared memory
constexpr int kChunkGrid = 16;   // blocks of threads of a row

/// One group of v as bytes, by a warp: scale = factor * largest / levels, and the sum of the bytes.
template <bool kVectors>
__device__ void quantize_group(const float* v, float factor, int group, float levels, int8_t* out,
                               float2* scale_sum) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  uint32_t largest = 0;  // by bits, so that what is not a number is the largest
  for (int i = lane; i < group; i += 32)
    largest = max(largest, __float_as_uint(v[i]) & 0x7fffffffu);
  largest = __reduce_max_sync(~0u, largest);
  const float scale = factor * __uint_as_float(largest) * (1.0f / levels);
  const float by = largest == 0 ? 0.0f : levels / __uint_as_float(largest);
  int sum = 0;
  for (int i = 4 * lane; i < group; i += 128) {
    uint32_t word = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const uint32_t q = __float_as_uint(fmaf(v[i + e], by, 12582912.0f)) & 0xffu;
      word |= q << (8 * e);
    }
    reinterpret_cast<uint32_t*>(out)[kVectors ? i / 4 : entry_word(lane)] = word;
    sum = __dp4a(static_cast<int>(word), 0x01010101, sum);
  }
  sum = __reduce_add_sync(~0u, sum);
  if (lane == 0) *scale_sum = {scale, static_cast<float>(sum)};
}

/// Rows of x as coded weights multiply them. Grid: a multiple of kChunkGrid, block (kThreads). A
/// block of threads prepares chunks of whole groups and whole rotation blocks.
template <bool kVectors>
__global__ void __launch_bounds__(kThreads)
    inputs_kernel(const __grid_constant__ DeltaCall call,
                  const __grid_constant__ DeltaBuffers buffers) {
  __shared__ float v[kMaxChunk];
  const Work<InputJob> list = kVectors ? open(call.vector_inputs) : open(call.inputs);
  release_dependents();
  if (!buffers.x_is_there) wait_for_inputs();
  const int parts = min(kChunkGrid, static_cast<int>(gridDim.x));
  const int part = static_cast<int>(blockIdx.x) % parts;
  const int of_job = static_cast<int>(gridDim.x) / parts;  // rows that are prepared at a time
  const int first_job = static_cast<int>(blockIdx.x) / parts;
  for (int j = first_job < of_job ? first_job : list.n; j < list.n; j += of_job) {
    const InputJob job = list.items[j];
    const float* x = buffers.x + int64_t{job.row} * buffers.x_stride;
    for (int first = part * job.chunk; first < job.padded; first += parts * job.chunk) {
      const int n = min(job.chunk, job.padded - first);
      for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
        v[i] = signed_input(job, x, first + i);
      }
      __syncthreads();
      const float by = job.block > 0 ? hadamard(v, min(n, job.cols - first), job.block) : 1.0f;
      for (int g = static_cast<int>(threadIdx.x / 32); g * job.group < n; g += kThreads / 32) {
        auto* scales =
            reinterpret_cast<float2*>(buffers.input_scales) + job.scales + first / job.group + g;
        quantize_group<kVectors>(v + g * job.group, by, job.group, job.levels,
                                 buffers.inputs + job.out + first + g * job.group, scales);
      }
      __syncthreads();  // before the next chunk replaces v
    }
  }
  if (buffers.x_is_there && blockIdx.x == 0) wait_for_inputs();  // as in delta_token.cu
}

/// z as U multiplies it. Grid: any, block (kThreads); a warp takes units in turn.
__global__ void __launch_bounds__(kThreads)
    components_kernel(const __grid_constant__ DeltaCall call,
                      const __grid_constant__ DeltaBuffers buffers) {
  const Work<ComponentJob> list = open(call.components);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int n_warps = static_cast<int>(gridDim.x) * (kThreads / 32);
  release_dependents();
  wait_for_inputs();
  for (int unit =
           static_cast<int>(blockIdx.x) * (kThreads / 32) + static_cast<int>(threadIdx.x / 32);
       unit < list.units; unit += n_warps) {
    const int item = item_of(list, unit);
    const ComponentJob& job = list.items[item];
    const int at = unit - list.starts[item];
    const int group = at % job.groups, row = at / job.groups;  // row: of [gain_blocks][n_tokens]
    const int col = kGroupCols * group + 4 * lane, cols = kTileCols * job.tiles;
    float4 v{};
    if (col < cols) {
      v = *reinterpret_cast<const float4*>(buffers.z + job.z +
                                           int64_t{row % job.n_tokens} * job.z_stride + col);
      if (job.gains != nullptr) {
        const float4 by =
            *reinterpret_cast<const float4*>(job.gains + int64_t{row / job.n_tokens} * cols + col);
        v = {v.x * by.x, v.y * by.y, v.z * by.z, v.w * by.w};
      }
    }
    const float x[4] = {v.x, v.y, v.z, v.w};
    uint32_t largest = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) largest = max(largest, __float_as_uint(x[e]) & 0x7fffffffu);
    largest = __reduce_max_sync(~0u, largest);
    const float by = largest == 0 ? 0.0f : 127.0f / __uint_as_float(largest);
    uint32_t word = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e)
      word |= (__float_as_uint(fmaf(x[e], by, 12582912.0f)) & 0xffu) << (8 * e);
    auto* out = reinterpret_cast<uint32_t*>(buffers.inputs + job.out) + int64_t{at} * 32;
    out[entry_word(lane)] = word;
    const int sum = __reduce_add_sync(~0u, __dp4a(static_cast<int>(word), 0x01010101, 0));
    if (lane == 0) {
      reinterpret_cast<float2*>(buffers.input_scales)[job.scales + at] = {
          __uint_as_float(largest) * (1.0f / 127), static_cast<float>(sum)};
    }
  }
}

}  // namespace

cudaError_t launch_components(const DeltaCall& call, const DeltaBuffers& buffers,
                              const DeltaLaunch& how) {
  return launch_persistent(components_kernel, kThreads, 0, call, buffers, how);
}

cudaError_t launch_inputs(const DeltaCall& call, const DeltaBuffers& buffers, bool vectors,
                          const DeltaLaunch& how) {
  return launch_persistent(vectors ? inputs_kernel<true> : inputs_kernel<false>, kThreads, 0, call,
                           buffers, how);
}

}  // namespace deltacome::cuda
