// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cuda/delta_layout.h"
#include "backend/cuda/overlap.cuh"

namespace deltacome::cuda {

// What the kernels of packed deltas share: lists of work, products of the tensor cores, and
// results.

/// Into the first-level cache, for a later read.
__device__ inline void prefetch(const void* p) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(p));
}

constexpr int kSector = 8;  // floats of what a prefetch brings

/// c += a b on the tensor cores, m16n8k32; kSigned: a is s8, else u8; b is s8.
template <bool kSigned>
__device__ inline void multiply_add(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
  if (kSigned) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

/// A list as kernels walk it.
template <class Item>
struct Work {
  const Item* items;
  const int32_t* starts;
  int n, units;
};
template <class Item>
__device__ inline Work<Item> open(const WorkList<Item>& list) {
  const WorkHead head = *list.head;
  return {list.items, reinterpret_cast<const int32_t*>(list.head + 1), head.n, head.units};
}

/// The item of a list that `unit` belongs to. All lanes of a warp together.
template <class Item>
__device__ inline int item_of(const Work<Item>& list, int unit) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int low = 0, high = list.n;  // starts[low] <= unit < starts[high]
  while (high - low > 1) {
    const int step = (high - low + 31) / 32, i = low + step * lane;
    const unsigned at_or_before = __ballot_sync(~0u, i < high && list.starts[i] <= unit);
    low += step * (__popc(at_or_before) - 1);
    high = min(low + step, high);
  }
  return low;
}

/// What of a call is multiplied: U, or V and dense deltas.
template <bool kExpand>
struct ListOf;
template <>
struct ListOf<false> {
  using Segment = InputSegment;
  __device__ static const WorkList<Segment>& of(const DeltaCall& call) { return call.shrink; }
};
template <>
struct ListOf<true> {
  using Segment = ComponentSegment;
  __device__ static const WorkList<Segment>& of(const DeltaCall& call) { return call.expand; }
};

/// Zeros for the z of the next call, by the last kernel that this one launches.
__device__ inline void clear_next_z(const DeltaBuffers& buffers) {
  const int step = static_cast<int>(gridDim.x * blockDim.x);
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < buffers.n_next_z;
       i += step) {
    buffers.next_z[i] = 0;
  }
}

/// Units before part `part` of n_parts equal ones (up to a unit) of a list.
__device__ inline int share_of(int units, int part, int n_parts) {
  const auto all = static_cast<unsigned>(units), n = static_cast<unsigned>(n_parts);
  return static_cast<int>(all / n) * part + min(part, static_cast<int>(all % n));
}

/// What is read first of a list, into the cache: enough for few items. Threads of a block together.
template <class Item>
__device__ inline void prefetch_list(const WorkList<Item>& list) {
  const unsigned at = threadIdx.x * 4 * kSector;
  if (at < list.capacity * sizeof(Item)) prefetch(reinterpret_cast<const char*>(list.items) + at);
}

/// The first unit from `unit` on that begins a row block, if those are not shared. All lanes of a
/// warp together.
template <class Segment>
__device__ inline int block_from(const Work<Segment>& list, int unit, bool whole_blocks) {
  if (!whole_blocks || unit == list.units) return unit;
  const int item = item_of(list, unit), groups = list.items[item].groups;
  return unit + (groups - (unit - list.starts[item]) % groups) % groups;
}

/// First result of token `t` of a segment.
__device__ inline float* result_of(const DeltaBuffers& buffers, const DeltaSegment& segment,
                                   int t) {
  if (segment.target < 0) return buffers.z + segment.z + int64_t{t} * segment.z_stride;
  const int64_t row = buffers.rows[segment.first_token + t];
  return buffers.y[segment.target] + row * buffers.y_stride[segment.target];
}

/// Adds sums of 16 rows by 8 tokens, as the tensor cores leave them: rows first + {g, g + 8},
/// tokens 2 j, 2 j + 1 of token tile `tile`.
__device__ inline void add_results(const DeltaBuffers& buffers, const DeltaSegment& segment,
                                   int first, int tile, float factor, const float (&sum)[4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int t = kMaxTokens * tile + 2 * (lane % 4);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = first + lane / 4 + 8 * h;
    if (row >= segment.rows || t >= segment.n_tokens) continue;
    const float by = segment.row_factor == nullptr ? factor : factor * segment.row_factor[row];
    atomicAdd(result_of(buffers, segment, t) + row, sum[2 * h] * by);
    if (t + 1 < segment.n_tokens)
      atomicAdd(result_of(buffers, segment, t + 1) + row, sum[2 * h + 1] * by);
  }
}

}  // namespace deltacome::cuda
