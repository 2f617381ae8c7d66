// SPDX-License-Identifier: Apache-2.0
#include <cuda_fp16.h>

#include "backend/cuda/delta_device.cuh"
#include "backend/cuda/delta_kernels.h"

namespace deltacome::cuda {
namespace {

/// What packed codes are multiplied with: prepared inputs, or x or z that each warp quantizes.
enum class Source { kPrepared, kX, kZ };

constexpr int kWarps = 4;
constexpr int kLoads = kGroupTiles + 2;  // 16-byte loads of a lane for a group: codes, scales

/// The input of a group as the tensor cores take it: of lane 4 g + j, token g's 8 columns from 8 j
/// on of each tile; and of tokens 2 j and 2 j + 1 the scale and the sum of the codes.
template <int kTokenTiles>
struct GroupInput {
  uint32_t b[kTokenTiles][kGroupTiles][2];
  float2 scale_sum[kTokenTiles][2];
};

/// From inputs that were prepared as bytes: `x` and `scales` of the segment's first token.
template <int kTokenTiles>
__device__ void load_prepared(const DeltaSegment& segment, const int8_t* x, const float2* scales,
                              int group, int n_tiles, GroupInput<kTokenTiles>& input) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
    const int token = kMaxTokens * n + lane / 4;
    const bool there = token < segment.n_tokens;
    const int8_t* from =
        x + int64_t{token} * segment.in_stride + kGroupCols * group + 8 * (lane % 4);
#pragma unroll
    for (int i = 0; i < kGroupTiles; ++i) {
      const uint2 pair = there && i < n_tiles
                             ? *reinterpret_cast<const uint2*>(from + kTileCols * i)
                             : uint2{0, 0};
      input.b[n][i][0] = pair.x;
      input.b[n][i][1] = pair.y;
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int t = kMaxTokens * n + 2 * (lane % 4) + c;
      input.scale_sum[n][c] =
          t < segment.n_tokens ? scales[int64_t{t} * segment.scale_stride + group] : float2{0, 0};
    }
  }
}

/// From x or z in float32: multiplied with the gains of the row block and quantized here, as
/// prepared inputs are. x has whole tiles of columns, z has zeros behind its components.
template <int kTokenTiles, Source kSource>
__device__ void quantize_input(const DeltaBuffers& buffers, const DeltaSegment& segment, int block,
                               int group, int n_tiles, GroupInput<kTokenTiles>& input) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float* gains = segment.gains;
  const int first_col = kGroupCols * group + 8 * (lane % 4);
  if (gains != nullptr) {
    const int row = block * block_rows(segment.bits);
    const int tiles = segment.digits > 0 ? 1 : segment.tiles;
    gains += int64_t{row / segment.gain_rows} * tiles * kTileCols + first_col;
  }
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
    const int token = kMaxTokens * n + lane / 4;
    const bool there = token < segment.n_tokens;
    const float* from = nullptr;
    if (kSource == Source::kZ) {
      from = buffers.z + segment.z + int64_t{token} * segment.z_stride + first_col;
    } else if (there) {
      from = buffers.x + buffers.rows[segment.first_token + token] * buffers.x_stride + first_col;
    }
    float x[8 * kGroupTiles];
    uint32_t largest = 0;  // by bits, so that what is not a number is the largest
#pragma unroll
    for (int i = 0; i < kGroupTiles; ++i) {
#pragma unroll
      for (int e = 0; e < 8; ++e) x[8 * i + e] = 0;
      if (i >= n_tiles) continue;
#pragma unroll
      for (int e = 0; e < 8; e += 4) {
        const bool read = there;
        float4 v = read ? *reinterpret_cast<const float4*>(from + kTileCols * i + e) : float4{};
        if (gains != nullptr) {
          const float4 by = *reinterpret_cast<const float4*>(gains + kTileCols * i + e);
          v = {v.x * by.x, v.y * by.y, v.z * by.z, v.w * by.w};
        }
        x[8 * i + e] = v.x;
        x[8 * i + e + 1] = v.y;
        x[8 * i + e + 2] = v.z;
        x[8 * i + e + 3] = v.w;
      }
#pragma unroll
      for (int e = 0; e < 8; ++e)
        largest = max(largest, __float_as_uint(x[8 * i + e]) & 0x7fffffffu);
    }
    largest = max(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = max(largest, __shfl_xor_sync(~0u, largest, 2));
    const float scale = __uint_as_float(largest) * (1.0f / 127);
    const float by = largest == 0 ? 0.0f : 127.0f / __uint_as_float(largest);
    int sum = 0;
#pragma unroll
    for (int i = 0; i < kGroupTiles; ++i) {
      input.b[n][i][0] = input.b[n][i][1] = 0;
      if (i >= n_tiles) continue;
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        uint32_t q[4];  // nearest integers, in the low bits of a large float
#pragma unroll
        for (int e = 0; e < 4; ++e)
          q[e] = __float_as_uint(fmaf(x[8 * i + 4 * p + e], by, 12582912.0f));
        const uint32_t word =
            __byte_perm(__byte_perm(q[0], q[1], 0x0040), __byte_perm(q[2], q[3], 0x0040), 0x5410);
        input.b[n][i][p] = word;
        sum = __dp4a(static_cast<int>(word), 0x01010101, sum);
      }
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int from = 8 * (lane % 4) + 4 * c;  // a lane of token 2 j + c
      input.scale_sum[n][c] = {__shfl_sync(~0u, scale, from),
                               static_cast<float>(__shfl_sync(~0u, sum, from))};
    }
  }
}

/// Scales of the rows of one field: rows g and g + 8. `part`: which quarter or half of the 64 rows.
template <int kBits>
__device__ float2 scales_of(const uint4* slot, int field, int part) {
  if (kBits <= 2) {
    const uint4 all = slot[32 * (kGroupTiles + field / 4)];
    const uint32_t words[4] = {all.x, all.y, all.z, all.w};
    return __half22float2(*reinterpret_cast<const __half2*>(&words[field % 4]));
  }
  const auto* words = reinterpret_cast<const __half2*>(slot + 32 * kGroupTiles);
  return __half22float2(words[kBits == 4 ? 2 * part + field : part]);
}

/// sum += a group of codes times its input. A field's integer sums begin at a float's bits, so that
/// no conversion is needed: they stay below 2^22 for every width (255 * 127 * 128).
template <int kBits, int kTokenTiles>
__device__ void multiply_group(const uint4* slot, int n_tiles, bool has_scales, int part,
                               float center, const GroupInput<kTokenTiles>& input,
                               float (&sum)[8 / kBits][kTokenTiles][4]) {
  constexpr int kMagic = 0x4b400000;  // 12582912.0f, and as many ones as are added
  uint4 a[kGroupTiles];
#pragma unroll
  for (int i = 0; i < kGroupTiles; ++i) a[i] = slot[32 * i];
#pragma unroll
  for (int field = 0; field < 8 / kBits; ++field) {
    const uint32_t mask = ((1u << kBits) - 1) * 0x01010101u << (kBits * field);
    const float2 scales = has_scales ? scales_of<kBits>(slot, field, part) : float2{1, 1};
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      int c[4] = {kMagic, kMagic, kMagic, kMagic};
#pragma unroll
      for (int i = 0; i < kGroupTiles; ++i) {
        if (i < n_tiles)
          multiply_add<false>(c, a[i].x & mask, a[i].y & mask, a[i].z & mask, a[i].w & mask,
                              input.b[n][i][0], input.b[n][i][1]);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 x = input.scale_sum[n][e % 2];
        // Both exact: integers, or halves of them, below 2^23.
        const float codes = __int_as_float(c[e]) - 12582912.0f;
        const float centered = fmaf(-static_cast<float>(1 << (kBits * field)), center * x.y, codes);
        sum[field][n][e] = fmaf(x.x * centered, e < 2 ? scales.x : scales.y, sum[field][n][e]);
      }
    }
  }
}

/// The same of 2-bit digits: tile d of the group holds digit d of the codes of the same 32 columns.
template <int kTokenTiles>
__device__ void multiply_digits(const uint4* slot, int n_digits, bool has_scales, float center,
                                const GroupInput<kTokenTiles>& input,
                                float (&sum)[4][kTokenTiles][4]) {
  uint4 a[kGroupTiles];
#pragma unroll
  for (int i = 0; i < kGroupTiles; ++i) a[i] = slot[32 * i];
#pragma unroll
  for (int field = 0; field < 4; ++field) {
    const uint32_t mask = 0x03030303u << (2 * field);
    const float2 scales = has_scales ? scales_of<2>(slot, field, 0) : float2{1, 1};
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      int total[4] = {};
#pragma unroll
      for (int i = 0; i < kGroupTiles; ++i) {
        if (i >= n_digits) continue;
        int c[4] = {};
        multiply_add<false>(c, a[i].x & mask, a[i].y & mask, a[i].z & mask, a[i].w & mask,
                            input.b[n][0][0], input.b[n][0][1]);
#pragma unroll
        for (int e = 0; e < 4; ++e) total[e] += (c[e] >> (2 * field)) * (1 << (2 * i));  // exact
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 x = input.scale_sum[n][e % 2];
        const float centered = fmaf(-center, x.y, static_cast<float>(total[e]));
        sum[field][n][e] = fmaf(x.x * static_cast<float>(1 << (2 * field)) * centered,
                                e < 2 ? scales.x : scales.y, sum[field][n][e]);
      }
    }
  }
}

/// The groups of one row block that the warp has, and their results.
template <int kBits, int kTokenTiles, Source kSource, class Stream>
__device__ void multiply_block(const DeltaBuffers& buffers, Stream& stream) {
  constexpr int kFields = 8 / kBits;
  const DeltaSegment& segment = *stream.now.segment;
  const int block = stream.now.block;
  const int n = min(stream.left, segment.groups - stream.now.group);
  const bool has_scales = segment.scales != nullptr;
  const int part = kBits <= 2 ? 0 : block % (kBits / 2);
  const float center = segment.center;
  float sum[kFields][kTokenTiles][4] = {};
  constexpr bool kPrepared = kSource == Source::kPrepared;
  constexpr bool kAhead = kPrepared && kTokenTiles == 1;  // more would take too many registers
  const int digits = kBits == 2 ? segment.digits : 0;
  if (segment.row_factor != nullptr && threadIdx.x % 32 < (block_rows(kBits) + 31) / 32)
    prefetch(
        segment.row_factor +
        min(block * block_rows(kBits) + static_cast<int>(threadIdx.x % 32) * 32, segment.rows - 1));
  const int gain_block =
      segment.gains == nullptr ? 0 : block * block_rows(kBits) / segment.gain_rows;
  const int8_t* x = buffers.inputs + segment.in + gain_block * segment.in_block;
  const float2* x_scales = reinterpret_cast<const float2*>(buffers.input_scales) +
                           segment.in_scales + gain_block * segment.scales_block;
  GroupInput<kTokenTiles> input, next;
  // Tiles of the input; digits share one.
  const auto input_tiles = [&](int group) {
    return digits > 0 ? 1 : min(kGroupTiles, segment.tiles - kGroupTiles * group);
  };
  const auto load = [&](int group, GroupInput<kTokenTiles>& to) {
    if (kPrepared) {
      load_prepared(segment, x, x_scales, group, input_tiles(group), to);
    } else {
      quantize_input<kTokenTiles, kSource>(buffers, segment, block, group, input_tiles(group), to);
    }
  };
  if (kAhead) load(stream.now.group, input);
  for (int i = 0; i < n; ++i) {
    const int group = stream.now.group, n_tiles = stream.now.n_tiles();
    if (!kAhead) load(group, input);  // while the codes are on their way
    const uint4* slot = stream.take();
    if (kAhead && i + 1 < n) load(group + 1, next);
    if constexpr (kBits == 2) {
      if (digits > 0) multiply_digits<kTokenTiles>(slot, n_tiles, has_scales, center, input, sum);
    }
    if (digits == 0)
      multiply_group<kBits, kTokenTiles>(slot, n_tiles, has_scales, part, center, input, sum);
    if (kAhead) input = next;
    stream.advance();
  }
#pragma unroll
  for (int field = 0; field < kFields; ++field) {
    const float factor = segment.factor / static_cast<float>(1 << (kBits * field));
    const int first = block * block_rows(kBits) + 16 * field;
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t)
      add_results(buffers, segment, first, t, factor, sum[field][t]);
  }
}

/// Packed codes times inputs: a persistent grid; every warp has an equal, contiguous share of the
/// groups of all segments, in the order in which they lie in memory, and adds its partial sums to
/// the results.
/// Grid: any, block (32 * kWarps), shared memory kWarps * kStages * kLoads * 512 bytes.
template <int kTokenTiles, Source kSource, bool kExpand, int kStages>
__global__ void __launch_bounds__(32 * kWarps, kTokenTiles == 1   ? 4
                                               : kTokenTiles == 2 ? 3
                                                                  : 2)
    tiles_kernel(const DeltaCall* __restrict__ call, const __grid_constant__ DeltaBuffers buffers) {
  extern __shared__ uint4 shared[];
  const WorkList<DeltaSegment> list = kExpand ? call->expand : call->shrink;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int64_t index = int64_t{blockIdx.x} * kWarps + warp, n_warps = int64_t{gridDim.x} * kWarps;
  int first = 0, last = list.units;
  if (kExpand && buffers.tier >= 0) {
    first = list.starts[call->tier_items[buffers.tier]];
    last = list.starts[call->tier_items[buffers.tier + 1]];
  }
  const bool whole = buffers.whole_blocks;
  const int begin = block_from(list, first + share_of(last - first, index, n_warps), whole);
  const int end = block_from(list, first + share_of(last - first, index + 1, n_warps), whole);
  release_dependents();
  // Segments of a long prompt read the same codes: those stay in the L2 cache.
  GroupStream<kStages, kLoads, kTokenTiles <= 2> stream;
  if (begin < end) stream.start(list, begin, end, shared + warp * (kStages * kLoads * 32));
  wait_for_inputs();
  if (kExpand) clear_next_z(buffers);
  if (begin == end) return;
  while (stream.left > 0) {
    switch (stream.now.bits) {
      case 1:
        multiply_block<1, kTokenTiles, kSource>(buffers, stream);
        break;
      case 2:
        multiply_block<2, kTokenTiles, kSource>(buffers, stream);
        break;
      case 4:
        multiply_block<4, kTokenTiles, kSource>(buffers, stream);
        break;
      default:
        multiply_block<8, kTokenTiles, kSource>(buffers, stream);
    }
  }
}

template <int kTokenTiles, Source kSource, bool kExpand, int kStages>
cudaError_t launch(const DeltaCall* call, const DeltaBuffers& buffers, const DeltaLaunch& how) {
  return launch_persistent(tiles_kernel<kTokenTiles, kSource, kExpand, kStages>, 32 * kWarps,
                           kWarps * kStages * kLoads * 512, call, buffers, how);
}

template <Source kSource, bool kExpand>
cudaError_t launch(const DeltaCall* call, const DeltaBuffers& buffers, const DeltaLaunch& how) {
  if (how.stages < 3) return launch<1, kSource, kExpand, 2>(call, buffers, how);
  if (how.stages > 3) return launch<1, kSource, kExpand, 4>(call, buffers, how);
  return launch<1, kSource, kExpand, 3>(call, buffers, how);
}

/// Few tokens in the form asked for; more always from prepared inputs.
template <Source kUnprepared, bool kExpand>
cudaError_t launch_any(const DeltaCall* call, const DeltaBuffers& buffers, const DeltaLaunch& how) {
  if (!how.prepares) {
    return how.token_tiles > 1 ? cudaErrorInvalidValue
                               : launch<kUnprepared, kExpand>(call, buffers, how);
  }
  if (how.token_tiles > 2) return launch<4, Source::kPrepared, kExpand, 3>(call, buffers, how);
  if (how.token_tiles > 1) return launch<2, Source::kPrepared, kExpand, 3>(call, buffers, how);
  return launch<Source::kPrepared, kExpand>(call, buffers, how);
}

}  // namespace

cudaError_t launch_shrink(const DeltaCall* call, const DeltaBuffers& buffers,
                          const DeltaLaunch& how) {
  return launch_any<Source::kX, false>(call, buffers, how);
}

cudaError_t launch_expand(const DeltaCall* call, const DeltaBuffers& buffers,
                          const DeltaLaunch& how) {
  return launch_any<Source::kZ, true>(call, buffers, how);
}

}  // namespace deltacome::cuda
