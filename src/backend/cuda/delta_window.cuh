// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cuda/delta_device.cuh"

namespace deltacome::cuda {

// Inputs of one token that a warp quantizes for itself.

constexpr int kBatch = 8;                     // groups that it loads at once, at most
constexpr int kEntryWords = kGroupCols / 16;  // of 16 bytes

/// Inputs of up to kWindow groups, as prepared inputs have them.
template <int kWindow>
struct Window {
  uint4 entries[kWindow][kEntryWords];
  float2 scale_sums[kWindow];
};
/// Which window a warp multiplies, and what it holds. In shared memory.
template <int kWindow>
struct alignas(16) Held {
  static constexpr int kSize = 2;  // of 16 bytes
  const Window<kWindow>* window;
  int item;                    // -1: nothing
  int begin, end;              // groups of a row block
  int first_block, end_block;  // row blocks for which it holds their gains

  __device__ bool has(int of_item, int block, int group) const {
    return item == of_item && group >= begin && group < end && block >= first_block &&
           block < end_block;
  }
  /// Holds groups [from, to) for the row block and those with the same gains.
  template <class Segment>
  __device__ void set(const Window<kWindow>* where, const Segment& segment, int of_item, int block,
                      int from, int to) {
    window = where;
    item = of_item;
    begin = from;
    end = min(to, from + kWindow);
    first_block = segment.gain_run == 0 ? 0 : block / segment.gain_run * segment.gain_run;
    end_block = segment.gain_run == 0 ? INT32_MAX : first_block + segment.gain_run;
  }
};

/// Four columns of a group of the input, with gains; zeros behind the last one.
template <bool kExpand>
__device__ inline float4 load_input(const DeltaBuffers& buffers, const DeltaSegment& segment,
                                    const SegmentPart& part, int group, const float* gains) {
  const int col = kGroupCols * group + 4 * static_cast<int>(threadIdx.x % 32);
  const int n = part.cols - col;
  if (n <= 0) return float4{};
  const float* from = kExpand ? buffers.z + segment.z + part.z + col
                              : buffers.x + segment.first_row * buffers.x_stride + col;
  if (gains != nullptr) gains += col;
  // z has whole tiles.
  const bool aligned = kExpand || (part.cols % 4 == 0 && buffers.x_stride % 4 == 0);
  float4 v{};
  float4 by{1, 1, 1, 1};
  if (aligned) {
    v = __ldcg(reinterpret_cast<const float4*>(from));
    if (gains != nullptr) by = *reinterpret_cast<const float4*>(gains);
  } else {
    v = {__ldcg(from), n > 1 ? __ldcg(from + 1) : 0, n > 2 ? __ldcg(from + 2) : 0,
         n > 3 ? __ldcg(from + 3) : 0};
    if (gains != nullptr)
      by = {gains[0], n > 1 ? gains[1] : 0, n > 2 ? gains[2] : 0, n > 3 ? gains[3] : 0};
  }
  return {v.x * by.x, v.y * by.y, v.z * by.z, v.w * by.w};
}

/// One group as bytes, by a warp that has four columns a lane.
__device__ inline void quantize_group(float4 x, float factor, uint4* entry, float2* scale_sum) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float v[4] = {x.x, x.y, x.z, x.w};
  uint32_t largest = 0;  // by bits, so that what is not a number is the largest
#pragma unroll
  for (int e = 0; e < 4; ++e) largest = max(largest, __float_as_uint(v[e]) & 0x7fffffffu);
  largest = __reduce_max_sync(~0u, largest);
  const float by = largest == 0 ? 0.0f : 127.0f / __uint_as_float(largest);
  uint32_t q[4];  // nearest integers, in the low bits of a large float
#pragma unroll
  for (int e = 0; e < 4; ++e) q[e] = __float_as_uint(fmaf(v[e], by, 12582912.0f));
  const uint32_t word =
      __byte_perm(__byte_perm(q[0], q[1], 0x0040), __byte_perm(q[2], q[3], 0x0040), 0x5410);
  reinterpret_cast<uint32_t*>(entry)[entry_word(lane)] = word;
  const int sum = __reduce_add_sync(~0u, __dp4a(static_cast<int>(word), 0x01010101, 0));
  if (lane == 0)
    *scale_sum = {__uint_as_float(largest) * (1.0f / 127) * factor, static_cast<float>(sum)};
}

/// The part that a group of a row block belongs to; `group` becomes that of the part.
__device__ inline const SegmentPart& part_at(const InputSegment& segment, int& /*group*/) {
  return segment.parts[0];
}
__device__ inline const SegmentPart& part_at(const ComponentSegment& segment, int& group) {
  int p = 0;
  while (group >= segment.parts[p].groups) group -= segment.parts[p++].groups;
  return segment.parts[p];
}

/// Groups [begin, end) of inputs of a row block into a window whose first one is `origin`.
template <bool kExpand, class Segment, int kWindow>
__device__ inline void fill(const DeltaBuffers& buffers, const Segment& segment, int block,
                            int begin, int end, int origin, Window<kWindow>& window) {
  constexpr int kNow = kBatch < kWindow ? kBatch : kWindow;
  __syncwarp();  // what was there has been read
  for (int first = begin; first < end; first += kNow) {
    float4 v[kNow];
    float factor[kNow];
#pragma unroll
    for (int u = 0; u < kNow; ++u) {
      if (first + u >= end) continue;
      int group = first + u;
      const SegmentPart& part = part_at(segment, group);
      const float* gains = part.gains;
      if (kExpand && gains != nullptr)
        gains += int64_t{block * block_rows(segment.bits) / part.gain_rows} * part.cols;
      factor[u] = part.factor;
      v[u] = load_input<kExpand>(buffers, segment, part, group, gains);
    }
#pragma unroll
    for (int u = 0; u < kNow; ++u) {
      const int at = first + u - origin;
      if (first + u < end)
        quantize_group(v[u], factor[u], window.entries[at], &window.scale_sums[at]);
    }
  }
  __syncwarp();
}

/// Gains of the first groups of the input that a warp will multiply, brought near.
template <int kGroups>
__device__ inline void prefetch_gains(const SegmentPart& part, int group) {
  if (part.gains == nullptr) return;
  const int first = kGroupCols * group + 4 * static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int u = 0; u < kGroups; ++u)
    if (first + kGroupCols * u < part.cols) prefetch(part.gains + first + kGroupCols * u);
}

}  // namespace deltacome::cuda
