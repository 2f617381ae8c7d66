// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta_kernels.h"
#include "backend/cuda/delta_products.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 4;

/// A group of inputs that were prepared as bytes: `x` and `scales` of the segment's first token.
template <int kTokenTiles>
__device__ void load_prepared(const SegmentPart& part, int n_tokens, const int8_t* x,
                              const float2* scales, int group, GroupInput<kTokenTiles>& input) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
    const int token = kMaxTokens * n + lane / 4;
    const auto* from =
        reinterpret_cast<const uint4*>(x + int64_t{token} * part.in_stride + kGroupCols * group) +
        2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < kGroupTiles; i += 2) {
      const uint4 four = token < n_tokens ? from[i / 2] : uint4{};
      input.b[n][i][0] = four.x;
      input.b[n][i][1] = four.y;
      input.b[n][i + 1][0] = four.z;
      input.b[n][i + 1][1] = four.w;
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int t = kMaxTokens * n + 2 * (lane % 4) + c;
      float2 pair = t < n_tokens ? scales[int64_t{t} * part.scale_stride + group] : float2{0, 0};
      pair.x *= part.factor;
      input.scale_sum[n][c] = pair;
    }
  }
}

/// The same of x or z in float32: multiplied with the gains of the row block and quantized here, as
/// prepared inputs are. x has whole tiles of columns.
template <bool kExpand>
__device__ void quantize_input(const DeltaBuffers& buffers, const DeltaSegment& segment,
                               const SegmentPart& part, int gain_block, int group,
                               GroupInput<1>& input) {
  const int lane = static_cast<int>(threadIdx.x % 32), token = lane / 4;
  const bool there = token < segment.n_tokens;
  const int first_col = kGroupCols * group + 8 * (lane % 4);
  const float* gains =
      part.gains == nullptr ? nullptr : part.gains + int64_t{gain_block} * part.cols;
  const float* from = nullptr;
  if (kExpand) {
    from = buffers.z + segment.z + int64_t{token} * segment.z_stride + part.z;
  } else if (there) {
    from = buffers.x + buffers.rows[segment.first_token + token] * buffers.x_stride;
  }
  float x[8 * kGroupTiles];
  uint32_t largest = 0;  // by bits, so that what is not a number is the largest
#pragma unroll
  for (int i = 0; i < kGroupTiles; ++i) {
    const int col = first_col + kTileCols * i;
    const bool read = there && col < part.cols;
#pragma unroll
    for (int e = 0; e < 8; e += 4) {
      float4 v = read ? *reinterpret_cast<const float4*>(from + col + e) : float4{};
      if (gains != nullptr && read) {
        const float4 by = *reinterpret_cast<const float4*>(gains + col + e);
        v = {v.x * by.x, v.y * by.y, v.z * by.z, v.w * by.w};
      }
      x[8 * i + e] = v.x;
      x[8 * i + e + 1] = v.y;
      x[8 * i + e + 2] = v.z;
      x[8 * i + e + 3] = v.w;
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) largest = max(largest, __float_as_uint(x[8 * i + e]) & 0x7fffffffu);
  }
  largest = max(largest, __shfl_xor_sync(~0u, largest, 1));
  largest = max(largest, __shfl_xor_sync(~0u, largest, 2));
  const float scale = __uint_as_float(largest) * (1.0f / 127);
  const float by = largest == 0 ? 0.0f : 127.0f / __uint_as_float(largest);
  int sum = 0;
#pragma unroll
  for (int i = 0; i < kGroupTiles; ++i) {
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      uint32_t q[4];  // nearest integers, in the low bits of a large float
#pragma unroll
      for (int e = 0; e < 4; ++e)
        q[e] = __float_as_uint(fmaf(x[8 * i + 4 * p + e], by, 12582912.0f));
      const uint32_t word =
          __byte_perm(__byte_perm(q[0], q[1], 0x0040), __byte_perm(q[2], q[3], 0x0040), 0x5410);
      input.b[0][i][p] = word;
      sum = __dp4a(static_cast<int>(word), 0x01010101, sum);
    }
  }
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    const int lane_of = 8 * (lane % 4) + 4 * c;  // a lane of token 2 j + c
    input.scale_sum[0][c] = {__shfl_sync(~0u, scale, lane_of) * part.factor,
                             static_cast<float>(__shfl_sync(~0u, sum, lane_of))};
  }
}

/// Groups [first, last) of a part of the row block that the stream is at.
template <bool kExpand, bool kPrepared, int kBits, bool kSmall, int kTokenTiles, class Stream>
__device__ void multiply_part(const DeltaBuffers& buffers, const SegmentPart& part, int first,
                              int last, Stream& stream,
                              float (&sum)[Slots<kBits, kSmall>::kCount][kTokenTiles][4]) {
  constexpr bool kAhead = kPrepared && kTokenTiles == 1;  // more would take too many registers
  const DeltaSegment& segment = *stream.now.segment;
  const int block = stream.now.block, n_tokens = segment.n_tokens;
  const int quarter = kBits <= 2 || kSmall ? 0 : block % (kBits / 2);
  const int gain_block = block * (kSmall ? kScaleRows : block_rows(kBits)) / part.gain_rows;
  const int8_t* x = buffers.inputs + part.in + gain_block * part.in_block;
  const float2* x_scales = reinterpret_cast<const float2*>(buffers.input_scales) + part.in_scales +
                           gain_block * part.scales_block;
  // In registers: what is in memory is read again after each asynchronous copy.
  const bool has_scales = part.scales != nullptr;
  const float center = part.center;
  GroupInput<kTokenTiles> input, next;
  if (kAhead) load_prepared(part, n_tokens, x, x_scales, first, input);
  for (int group = first; group < last; ++group) {
    // While codes are on their way.
    if constexpr (!kPrepared) {
      quantize_input<kExpand>(buffers, segment, part, gain_block, group, input);
    } else if (!kAhead) {
      load_prepared(part, n_tokens, x, x_scales, group, input);
    }
    const uint4* codes = stream.take();
    if (kAhead && group + 1 < last) load_prepared(part, n_tokens, x, x_scales, group + 1, next);
    multiply_group<kBits, kSmall, kTokenTiles>(codes, has_scales, quarter, center, input, sum);
    if (kAhead) input = next;
  }
}

/// The groups of one row block that the warp has, and their results.
template <bool kExpand, bool kPrepared, int kBits, int kTokenTiles, class Stream>
__device__ void multiply_block(const DeltaBuffers& buffers, Stream& stream) {
  constexpr int kFields = 8 / kBits;
  const auto& segment = *stream.now.segment;
  const int block = stream.now.block;
  const int n = min(stream.left, stream.now.groups - stream.now.group);
  float sum[kFields][kTokenTiles][4] = {};
  const int row_ahead = block * block_rows(kBits) + static_cast<int>(threadIdx.x % 32) * kSector;
  if (segment.row_factor != nullptr && threadIdx.x % 32 * kSector < block_rows(kBits) &&
      row_ahead < segment.rows) {
    prefetch(segment.row_factor + row_ahead);
  }
  int first = stream.now.group, last = first + n;  // of the part
  for (int p = 0; p < segment.n_parts && last > 0; ++p) {
    const SegmentPart& part = segment.parts[p];
    const int until = min(last, part.groups);
    if (first < until) {
      if (part.bits == kBits) {
        multiply_part<kExpand, kPrepared, kBits, false, kTokenTiles>(buffers, part, first, until,
                                                                     stream, sum);
      } else if constexpr (kBits == 2) {
        if (part.bits == 4)
          multiply_part<kExpand, kPrepared, 4, true, kTokenTiles>(buffers, part, first, until,
                                                                  stream, sum);
        else
          multiply_part<kExpand, kPrepared, 8, true, kTokenTiles>(buffers, part, first, until,
                                                                  stream, sum);
      }
    }
    first = max(first - part.groups, 0);
    last -= part.groups;
  }
#pragma unroll
  for (int field = 0; field < kFields; ++field) {
    const float factor = 1.0f / static_cast<float>(1 << (kBits * field));
    const int row = block * block_rows(kBits) + 16 * field;
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t)
      add_results(buffers, segment, row, t, factor, sum[field][t]);
  }
  stream.advance(n);
}

template <int kTokenTiles>
DELTACOME_HOST_DEVICE constexpr int stages() {
  return kTokenTiles == 1 ? 2 : 3;
}

/// Segments of a long prompt read the same codes: those stay in the L2 cache.
template <int kTokenTiles, bool kExpand>
using TileStream =
    GroupStream<typename ListOf<kExpand>::Segment, stages<kTokenTiles>(), true, kTokenTiles <= 2>;

/// Packed codes times inputs of some tokens: a persistent grid; every warp has an equal, contiguous
/// share of the groups of all segments, in the order in which they lie in memory, and adds its
/// partial sums to the results. Grid: any, block (32 * kWarps), shared memory of kWarps streams.
template <int kTokenTiles, bool kExpand, bool kPrepared>
__global__ void __launch_bounds__(32 * kWarps, kTokenTiles == 1   ? 4
                                               : kTokenTiles == 2 ? 3
                                                                  : 2)
    tiles_kernel(const __grid_constant__ DeltaCall call,
                 const __grid_constant__ DeltaBuffers buffers) {
  extern __shared__ uint4 shared[];
  using Segment = typename ListOf<kExpand>::Segment;
  using Stream = TileStream<kTokenTiles, kExpand>;
  const Work<Segment> list = open(ListOf<kExpand>::of(call));
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int index = static_cast<int>(blockIdx.x) * kWarps + warp;
  const int n_warps = static_cast<int>(gridDim.x) * kWarps;
  int first = 0, last = list.units;
  if (kExpand && buffers.tier >= 0) {
    first = list.starts[call.tier_items[buffers.tier]];
    last = list.starts[call.tier_items[buffers.tier + 1]];
  }
  const bool whole = buffers.whole_blocks;
  const int begin = block_from(list, first + share_of(last - first, index, n_warps), whole);
  const int end = block_from(list, first + share_of(last - first, index + 1, n_warps), whole);
  release_dependents();
  Stream stream;
  if (begin < end)
    stream.start(list, item_of(list, begin), begin, end, shared + warp * Stream::kShared);
  wait_for_inputs();
  if (kExpand) clear_next_z(buffers);
  if (begin == end) return;
  while (stream.left > 0) {
    switch (stream.now.segment->bits) {
      case 1:
        multiply_block<kExpand, kPrepared, 1, kTokenTiles>(buffers, stream);
        break;
      case 2:
        multiply_block<kExpand, kPrepared, 2, kTokenTiles>(buffers, stream);
        break;
      case 4:
        multiply_block<kExpand, kPrepared, 4, kTokenTiles>(buffers, stream);
        break;
      default:
        multiply_block<kExpand, kPrepared, 8, kTokenTiles>(buffers, stream);
    }
  }
}

template <int kTokenTiles, bool kExpand, bool kPrepared>
cudaError_t launch(const DeltaCall& call, const DeltaBuffers& buffers, const DeltaLaunch& how) {
  return launch_persistent(tiles_kernel<kTokenTiles, kExpand, kPrepared>, 32 * kWarps,
                           size_t{16} * kWarps * TileStream<kTokenTiles, kExpand>::kShared, call,
                           buffers, how);
}

template <bool kExpand>
cudaError_t launch_tiles(const DeltaCall& call, const DeltaBuffers& buffers,
                         const DeltaLaunch& how) {
  if (!how.prepares) {
    return how.token_tiles > 1 ? cudaErrorInvalidValue
                               : launch<1, kExpand, false>(call, buffers, how);
  }
  if (how.token_tiles > 2) return launch<4, kExpand, true>(call, buffers, how);
  if (how.token_tiles > 1) return launch<2, kExpand, true>(call, buffers, how);
  return launch<1, kExpand, true>(call, buffers, how);
}

}  // namespace

cudaError_t launch_shrink(const DeltaCall& call, const DeltaBuffers& buffers,
                          const DeltaLaunch& how) {
  return how.one_token ? launch_token_shrink(call, buffers, how)
                       : launch_tiles<false>(call, buffers, how);
}

cudaError_t launch_expand(const DeltaCall& call, const DeltaBuffers& buffers,
                          const DeltaLaunch& how) {
  return how.one_token ? launch_token_expand(call, buffers, how)
                       : launch_tiles<true>(call, buffers, how);
}

}  // namespace deltacome::cuda
