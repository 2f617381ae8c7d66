// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cuda/delta_stream.cuh"

namespace deltacome::cuda {

// Inputs of one token that a warp quantizes for itself.

constexpr int kBatch = 8;                     // groups that it loads at once, at most
constexpr int kEntryWords = kGroupCols / 16;  // of 16 bytes

/// Inputs of up to kWindow groups that a warp holds: as prepared inputs have them; or, of a small
/// part with gains of row blocks, 32 floats. `own`: such a group with the gains of the warp's row
/// block.
template <int kWindow>
struct Window {
  uint4 entries[kWindow][kEntryWords];
  uint4 own[kEntryWords];
  float2 scale_sums[kWindow];
  float2 own_scale_sum[2];
};
/// Which window a warp multiplies, and what it holds.
template <int kWindow>
struct Held {
  const Window<kWindow>* window = nullptr;
  int item = -1;
  int begin = 0, end = 0;  // groups of a row block
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
__device__ inline bool has_row_gains(const DeltaSegment& segment, const SegmentPart& part) {
  return part.gain_rows < segment.rows;
}

/// Groups [begin, end) of the segment's row blocks into a window whose first one is `origin`.
template <bool kExpand, class Segment, int kWindow>
__device__ inline void fill(const DeltaBuffers& buffers, const Segment& segment, int begin, int end,
                            int origin, Window<kWindow>& window) {
  constexpr int kNow = kBatch < kWindow ? kBatch : kWindow;
  const int lane = static_cast<int>(threadIdx.x % 32);
  __syncwarp();  // what was there has been read
  for (int first = begin; first < end; first += kNow) {
    float4 v[kNow];
    float factor[kNow];  // 0: floats are kept
#pragma unroll
    for (int u = 0; u < kNow; ++u) {
      v[u] = float4{};
      factor[u] = 0;
      if (first + u >= end) continue;
      int group = first + u;
      const SegmentPart& part = part_at(segment, group);
      const bool row_gains = kExpand && has_row_gains(segment, part);
      if (!row_gains) factor[u] = part.factor;
      if (!row_gains || part.cols <= kTileCols)
        v[u] = load_input<kExpand>(buffers, segment, part, group, row_gains ? nullptr : part.gains);
    }
#pragma unroll
    for (int u = 0; u < kNow; ++u) {
      const int at = first + u - origin;
      if (first + u >= end) continue;
      if (factor[u] != 0) {
        quantize_group(v[u], factor[u], window.entries[at], &window.scale_sums[at]);
      } else if (lane < kEntryWords) {
        reinterpret_cast<float4*>(window.entries[at])[lane] = v[u];
      }
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

/// A group of a part whose inputs have gains of the row block, as own.own. `at`: in `window`.
template <class Segment, int kWindow>
__device__ inline void fill_own(const DeltaBuffers& buffers, const Segment& segment,
                                const SegmentPart& part, int group, int block, int at,
                                const Window<kWindow>& window, Window<kWindow>& own) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int gain_block = block * block_rows(segment.bits) / part.gain_rows;
  const float* gains = part.gains + int64_t{gain_block} * part.cols;
  __syncwarp();  // the group before has been read
  float4 v{};
  if (part.cols > kTileCols) {
    v = load_input<true>(buffers, segment, part, group, gains);
  } else if (lane < kEntryWords) {
    const float4 z = reinterpret_cast<const float4*>(window.entries[at])[lane];
    const float4 by = *reinterpret_cast<const float4*>(gains + 4 * lane);
    v = {z.x * by.x, z.y * by.y, z.z * by.z, z.w * by.w};
  }
  quantize_group(v, part.factor, own.own, own.own_scale_sum);
  __syncwarp();
}

}  // namespace deltacome::cuda
