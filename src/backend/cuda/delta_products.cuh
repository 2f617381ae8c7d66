// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_fp16.h>

#include "backend/cuda/delta_stream.cuh"

namespace deltacome::cuda {

// Products of a group of tiles with the inputs of several tokens, on the tensor cores.

/// The input of a group as the tensor cores take it: of lane 4 g + j, token g's 8 columns from 8 j
/// on of each tile; and of tokens 2 j and 2 j + 1 the scale and the sum of the codes.
template <int kTokenTiles>
struct GroupInput {
  uint32_t b[kTokenTiles][kGroupTiles][2];
  float2 scale_sum[kTokenTiles][2];
};

/// Where the 16 rows of slot `kSlot` of a row block are: in which of the group's tiles, if the part
/// is small, and in which field of a byte. A small part has all its columns in one tile a row block
/// of its own, of which `together` make 64 rows.
template <int kBits, bool kSmall>
struct Slots {
  static constexpr int kFields = 8 / kBits;
  static constexpr int kCount = kSmall ? 4 : kFields;
  static constexpr int kInner = kSmall ? 1 : kGroupTiles;  // tiles of a sum
  DELTACOME_HOST_DEVICE static constexpr int field(int slot) { return slot % kFields; }
  DELTACOME_HOST_DEVICE static constexpr int tile(int slot, int i) {
    return kSmall ? slot / kFields : i;
  }
  DELTACOME_HOST_DEVICE static constexpr uint32_t mask(int slot) {
    return ((1u << kBits) - 1) * 0x01010101u << (kBits * field(slot));
  }
  /// What codes are multiplied with by their place in a byte.
  DELTACOME_HOST_DEVICE static constexpr int weight(int slot) { return 1 << (kBits * field(slot)); }
  /// The same of the row block, which results take out again.
  DELTACOME_HOST_DEVICE static constexpr int block_weight(int slot) {
    return kSmall ? 1 << (2 * slot) : weight(slot);
  }
};

/// Bits of the integer sums at their beginning: those of a float, so that they need no conversion.
/// They stay below 2^22 for every width (255 * 127 * 128).
constexpr int kMagic = 0x4b400000;  // 12582912.0f, and as many ones as are added
__device__ inline float from_magic(int sum) {
  return __int_as_float(sum) - 12582912.0f;
}

/// Scales of the rows g and g + 8 of a slot. `quarter`: which quarter or half of the 64 rows whose
/// scales lie together the row block is.
template <int kBits, bool kSmall>
__device__ float2 scales_of(const uint4* group, int slot, int quarter) {
  const auto* words =
      reinterpret_cast<const __half2*>(group + kScaleSlot) + threadIdx.x % 32 / 4 * 4;
  if (kSmall || kBits == 2) return __half22float2(words[slot]);
  if (kBits == 1) return __half22float2(words[slot % 4 + slot / 4 * 32]);
  return __half22float2(words[kBits == 4 ? 2 * quarter + slot : quarter]);
}

/// sum += a group of codes times its input.
template <int kBits, bool kSmall, int kTokenTiles>
__device__ void multiply_group(const uint4* group, bool has_scales, int quarter, float center,
                               const GroupInput<kTokenTiles>& input,
                               float (&sum)[Slots<kBits, kSmall>::kCount][kTokenTiles][4]) {
  using At = Slots<kBits, kSmall>;
  uint4 a[kGroupTiles];
#pragma unroll
  for (int i = 0; i < kGroupTiles; ++i) a[i] = group[32 * i + threadIdx.x % 32];
#pragma unroll
  for (int slot = 0; slot < At::kCount; ++slot) {
    const uint32_t mask = At::mask(slot);
    const float2 scales =
        has_scales ? scales_of<kBits, kSmall>(group, slot, quarter) : float2{1, 1};
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      int c[4] = {kMagic, kMagic, kMagic, kMagic};
#pragma unroll
      for (int i = 0; i < At::kInner; ++i) {
        const uint4 codes = a[At::tile(slot, i)];
        multiply_add<false>(c, codes.x & mask, codes.y & mask, codes.z & mask, codes.w & mask,
                            input.b[n][i][0], input.b[n][i][1]);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 x = input.scale_sum[n][e % 2];
        // Both exact: integers, or halves of them, below 2^23.
        const float centered =
            fmaf(-static_cast<float>(At::weight(slot)), center * x.y, from_magic(c[e]));
        const float by = x.x * (static_cast<float>(At::block_weight(slot)) /
                                static_cast<float>(At::weight(slot)));
        sum[slot][n][e] = fmaf(by * centered, e < 2 ? scales.x : scales.y, sum[slot][n][e]);
      }
    }
  }
}

}  // namespace deltacome::cuda
