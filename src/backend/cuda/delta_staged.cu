// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta_kernels.h"
#include "backend/cuda/delta_products.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kEntries = 192;  // groups of inputs of a token that a block of threads holds
constexpr int kMaxSpans = 16;
constexpr int kBatch = 4;                     // groups that a warp loads at once to stage them
constexpr int kEntryWords = kGroupCols / 16;  // of 16 bytes

/// Inputs in shared memory that segments from `item` on have in common: `count` groups from `first`
/// on, the last one before the first, of `n_tokens` tokens each.
struct Span {
  int item, base;
  int first, count, groups;
  int n_tokens;
};

/// A group of a token: bytes in the order in which lanes j read them, [j][tile][8 columns], and the
/// scale and the sum of the bytes; or, of a small part with gains of row blocks, 32 floats.
template <int kTokens>
struct Staged {
  uint4 entries[kEntries][kEntryWords];
  uint4 own[kWarps][kTokens][kEntryWords];  // of a warp's row block: inputs with gains of its rows
  float2 scale_sums[kEntries];
  float2 own_scale_sums[kWarps][kTokens];
  Span spans[kMaxSpans];
  int n_spans, n_entries, until;
};
template <int kTokens>
DELTACOME_HOST_DEVICE constexpr int staged_size() {
  return static_cast<int>((sizeof(Staged<kTokens>) + 15) / 16);
}

/// What a block of threads stages next for units from `unit` on, of `item` or later: as many as
/// have room. By one warp.
template <int kTokens, class Segment>
__device__ void plan(const Work<Segment>& list, int item, int unit, int end,
                     Staged<kTokens>& staged) {
  item = item_from(list, item, unit);
  if (threadIdx.x % 32 != 0) return;
  int n = 0, used = 0;
  for (; unit < end; ++item) {
    const Segment& segment = list.items[item];
    const int begin = list.starts[item], until = min(list.starts[item + 1], end);
    const int n_tokens = kTokens == 1 ? 1 : segment.n_tokens;
    const bool same = n > 0 && segment.same_input != 0;
    if (!same) {
      if (n == kMaxSpans) break;
      staged.spans[n++] = {item, used,           (unit - begin) % segment.groups,
                           0,    segment.groups, n_tokens};
    }
    Span& span = staged.spans[n - 1];
    const int more = min(span.count + until - unit, span.groups) - span.count;
    const int room = (kEntries - used) / n_tokens;
    if (more > room) {
      if (used > 0) {
        n -= same ? 0 : 1;
      } else {  // the segment has room for a part of its groups
        span.count = room;
        used = room * n_tokens;
        unit += room;
      }
      break;
    }
    span.count += more;
    used += more * n_tokens;
    unit = until;
  }
  staged.n_spans = n;
  staged.n_entries = used;
  staged.until = unit;
}

/// Where four columns of a group of the input of a token are, of which `n` are there.
struct Source {
  const float* from;
  const float* gains;  // of these columns, or null
  int n;
  bool aligned;
};
template <bool kExpand>
__device__ Source source_of(const DeltaBuffers& buffers, const DeltaSegment& segment,
                            const SegmentPart& part, int group, int token, int gain_block) {
  const int col = kGroupCols * group + 4 * static_cast<int>(threadIdx.x % 32);
  Source source{nullptr, part.gains, min(4, part.cols - col), true};
  if (kExpand) {  // whole tiles
    source.from = buffers.z + segment.z + int64_t{token} * segment.z_stride + part.z + col;
    if (source.gains != nullptr) source.gains += int64_t{gain_block} * part.cols + col;
  } else {
    const int row = token == 0 ? segment.first_row : buffers.rows[segment.first_token + token];
    source.from = buffers.x + row * buffers.x_stride + col;
    if (source.gains != nullptr) source.gains += col;
    source.aligned = part.cols % 4 == 0 && buffers.x_stride % 4 == 0;
  }
  return source;
}
/// What is there, zeros behind it.
__device__ float4 load(const Source& source) {
  float v[4] = {};
  if (source.n == 4 && source.aligned) {
    const float4 all = __ldcg(reinterpret_cast<const float4*>(source.from));
    if (source.gains == nullptr) return all;
    const float4 by = *reinterpret_cast<const float4*>(source.gains);
    return {all.x * by.x, all.y * by.y, all.z * by.z, all.w * by.w};
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (e >= source.n) continue;
    v[e] = __ldcg(source.from + e);
    if (source.gains != nullptr) v[e] *= source.gains[e];
  }
  return {v[0], v[1], v[2], v[3]};
}

/// The same of what is in shared memory.
__device__ float4 load_shared(const Source& source) {
  if (source.n <= 0) return float4{};
  const float4 v = *reinterpret_cast<const float4*>(source.from);
  const float4 by = *reinterpret_cast<const float4*>(source.gains);
  return {v.x * by.x, v.y * by.y, v.z * by.z, v.w * by.w};
}

/// One group as bytes, by a warp that has four columns a lane.
__device__ void quantize_group(float4 x, float factor, uint4* entry, float2* scale_sum) {
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
  reinterpret_cast<uint32_t*>(entry)[lane % 8 / 2 * 8 + lane / 8 * 2 + lane % 2] = word;
  const int sum = __reduce_add_sync(~0u, __dp4a(static_cast<int>(word), 0x01010101, 0));
  if (lane == 0)
    *scale_sum = {__uint_as_float(largest) * (1.0f / 127) * factor, static_cast<float>(sum)};
}

/// The part that a group of a row block belongs to; `group` becomes that of the part.
template <class Segment>
__device__ const SegmentPart& part_at(const Segment& segment, int& group) {
  int p = 0;
  while (group >= segment.parts[p].groups) group -= segment.parts[p++].groups;
  return segment.parts[p];
}
template <bool kExpand>
__device__ bool has_row_gains(const DeltaSegment& segment, const SegmentPart& part) {
  return kExpand && part.gain_rows < segment.rows;
}

/// Whether the inputs of a small part fit an entry as they are.
__device__ bool is_small(const SegmentPart& part) {
  return part.cols <= kTileCols;
}

/// All that was planned, by all warps. `waits`: the inputs are there only after wait_for_inputs().
template <bool kExpand, int kTokens, class Segment>
__device__ void stage(const Work<Segment>& list, const DeltaBuffers& buffers, bool waits,
                      Staged<kTokens>& staged) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int k = 0;
  for (int first = static_cast<int>(threadIdx.x / 32); first < staged.n_entries;
       first += kWarps * kBatch) {
    Source source[kBatch];
    float factor[kBatch];  // negative: floats are kept
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      const int entry = first + kWarps * u;
      source[u] = {nullptr, nullptr, 0, true};
      factor[u] = 0;
      if (entry >= staged.n_entries) continue;
      while (k + 1 < staged.n_spans && staged.spans[k + 1].base <= entry) ++k;
      const Span& span = staged.spans[k];
      const Segment& segment = list.items[span.item];
      int group = span.first + (entry - span.base) / (kTokens == 1 ? 1 : span.n_tokens);
      if (group >= span.groups) group -= span.groups;
      const int token = kTokens == 1 ? 0 : (entry - span.base) % span.n_tokens;
      const SegmentPart& part = part_at(segment, group);
      factor[u] = part.factor;
      const bool row_gains = has_row_gains<kExpand>(segment, part);
      if (row_gains && !is_small(part)) continue;  // later, by who needs them
      source[u] = source_of<kExpand>(buffers, segment, part, group, token, 0);
      if (!row_gains) continue;
      source[u].gains = nullptr;
      factor[u] = -1;
    }
    if (waits) wait_for_inputs();
    waits = false;
    float4 v[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; ++u) v[u] = load(source[u]);
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      const int entry = first + kWarps * u;
      if (entry >= staged.n_entries) continue;
      if (kExpand && factor[u] < 0) {
        if (lane < kEntryWords) reinterpret_cast<float4*>(staged.entries[entry])[lane] = v[u];
      } else {
        quantize_group(v[u], factor[u], staged.entries[entry], &staged.scale_sums[entry]);
      }
    }
  }
  if (waits) wait_for_inputs();  // before results are added, too
}

/// c = magic + a b.
__device__ void multiply_first(int (&c)[4], uint4 a, uint32_t mask, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%10,%10,%10};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(a.x & mask), "r"(a.y & mask), "r"(a.z & mask), "r"(a.w & mask), "r"(b0), "r"(b1),
        "r"(kMagic));
}

/// Results of one token, of which the tensor cores give eight equal columns: lane 4 g + j keeps the
/// rows g and g + 8 of slot j (of 1 bit: and of slot j + 4).
template <int kBits, bool kSmall>
struct LaneSlot {
  using At = Slots<kBits, kSmall>;
  static constexpr int kPairs = At::kCount == 8 ? 2 : 1;
  int slot, field;
  __device__ LaneSlot() {
    slot = static_cast<int>(threadIdx.x % 4) % At::kCount;
    field = slot % At::kFields;
  }
  /// Of slots first, first + 1, ... the one of this lane.
  __device__ int pick(const int (&c)[4][4], int e) const {
    if (At::kCount == 1) return c[0][e];
    const int low = slot % 2 == 0 ? c[0][e] : c[1][e];
    if (At::kCount == 2) return low;
    const int high = slot % 2 == 0 ? c[2][e] : c[3][e];
    return slot < 2 ? low : high;
  }
};

/// sum += a group of codes times the input of one token.
template <int kBits, bool kSmall>
__device__ void multiply_one(const uint4* group, bool has_scales, int quarter, float center,
                             const uint4* entry, float2 x, float (&sum)[2][2]) {
  using At = Slots<kBits, kSmall>;
  const LaneSlot<kBits, kSmall> own;
  const int lane = static_cast<int>(threadIdx.x % 32);
  uint4 a[kGroupTiles];
#pragma unroll
  for (int i = 0; i < kGroupTiles; ++i) a[i] = group[32 * i + lane];
  const uint4 low = entry[2 * (lane % 4)], high = entry[2 * (lane % 4) + 1];
  const uint32_t b[kGroupTiles][2] = {
      {low.x, low.y}, {low.z, low.w}, {high.x, high.y}, {high.z, high.w}};
  const auto* words = reinterpret_cast<const __half2*>(group + kScaleSlot);
  const float weight = static_cast<float>(1 << (kBits * own.field));
  const float relative = kSmall ? static_cast<float>(1 << (2 * own.slot)) / weight : 1.0f;
#pragma unroll
  for (int pair = 0; pair < LaneSlot<kBits, kSmall>::kPairs; ++pair) {
    int c[4][4];
#pragma unroll
    for (int s = 0; s < 4 && s < At::kCount; ++s) {
      const int slot = 4 * pair + s;
      multiply_first(c[s], a[At::tile(slot, 0)], At::mask(slot), b[0][0], b[0][1]);
#pragma unroll
      for (int i = 1; i < At::kInner; ++i) {
        const uint4 codes = a[i];
        const uint32_t mask = At::mask(slot);
        multiply_add<false>(c[s], codes.x & mask, codes.y & mask, codes.z & mask, codes.w & mask,
                            b[i][0], b[i][1]);
      }
    }
    float2 scales{1, 1};
    if (has_scales) {
      const int word = kSmall || kBits <= 2 ? lane + 32 * pair
                       : kBits == 4         ? lane / 4 * 4 + 2 * quarter + own.slot
                                            : lane / 4 * 4 + quarter;
      scales = __half22float2(words[word]);
    }
    const float of_lane = pair == 0 ? weight : 16 * weight;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // Both exact: integers, or halves of them, below 2^23.
      const float centered = fmaf(-of_lane, center * x.y, from_magic(own.pick(c, 2 * h)));
      sum[pair][h] = fmaf(x.x * relative * centered, h == 0 ? scales.x : scales.y, sum[pair][h]);
    }
  }
}

/// Groups [first, last) of a part of the row block that the stream is at. `before`: groups of the
/// parts before. Sums are those of one token's lanes, or of slots.
template <bool kExpand, int kBits, bool kSmall, int kTokens, class Stream, class Sums>
__device__ void multiply_part(const DeltaBuffers& buffers, const SegmentPart& part, int before,
                              int first, int last, Stream& stream, Staged<kTokens>& staged,
                              const Span& span, Sums& sum) {
  const DeltaSegment& segment = *stream.now.segment;
  const int block = stream.now.block, warp = static_cast<int>(threadIdx.x / 32);
  const int n_tokens = kTokens == 1 ? 1 : segment.n_tokens;
  const int quarter = kBits <= 2 || kSmall ? 0 : block % (kBits / 2);
  // In registers: what is in memory is read again after each asynchronous copy.
  const bool has_scales = part.scales != nullptr;
  const float center = part.center;
  const bool row_gains = has_row_gains<kExpand>(segment, part);
  const int entry_of_first = span.base, span_first = span.first, span_groups = span.groups;
  for (int group = first; group < last; ++group) {
    const int i = before + group - span_first;
    const int entry = entry_of_first + (i < 0 ? i + span_groups : i) * n_tokens;
    const uint4(*entries)[kEntryWords] = staged.entries + entry;
    const float2* scale_sums = staged.scale_sums + entry;
    if (row_gains) {
      __syncwarp();  // the group before has been read
      const int gain_block = block * (kSmall ? kScaleRows : block_rows(kBits)) / part.gain_rows;
      for (int t = 0; t < n_tokens; ++t) {
        Source source = source_of<kExpand>(buffers, segment, part, group, t, gain_block);
        if (is_small(part)) {
          source.from = reinterpret_cast<const float*>(staged.entries[entry + t]) +
                        4 * (threadIdx.x % kEntryWords);
        }
        quantize_group(is_small(part) ? load_shared(source) : load(source), part.factor,
                       staged.own[warp][t], &staged.own_scale_sums[warp][t]);
      }
      __syncwarp();
      entries = staged.own[warp];
      scale_sums = staged.own_scale_sums[warp];
    }
    const uint4* codes = stream.take();
    if constexpr (kTokens == 1) {
      multiply_one<kBits, kSmall>(codes, has_scales, quarter, center, entries[0], scale_sums[0],
                                  sum);
    } else {
      const int lane = static_cast<int>(threadIdx.x % 32), token = lane / 4;
      GroupInput<1> input;
#pragma unroll
      for (int i = 0; i < kGroupTiles; i += 2) {
        const uint4 b = token < n_tokens ? entries[token][2 * (lane % 4) + i / 2] : uint4{};
        input.b[0][i][0] = b.x;
        input.b[0][i][1] = b.y;
        input.b[0][i + 1][0] = b.z;
        input.b[0][i + 1][1] = b.w;
      }
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int t = 2 * (lane % 4) + c;
        input.scale_sum[0][c] = t < n_tokens ? scale_sums[t] : float2{};
      }
      multiply_group<kBits, kSmall, 1>(codes, has_scales, quarter, center, input, sum);
    }
  }
}

/// n groups of the row block that the stream is at, of whatever parts.
template <bool kExpand, int kBits, int kTokens, class Stream, class Sums>
__device__ void multiply_parts(const DeltaBuffers& buffers, int n, Stream& stream,
                               Staged<kTokens>& staged, const Span& span, Sums& sum) {
  const auto& segment = *stream.now.segment;
  const int first = stream.now.group, last = first + n;
  int before = 0;
  for (int p = 0; p < segment.n_parts && before < last; ++p) {
    const SegmentPart& part = segment.parts[p];
    const int from = max(first - before, 0), to = min(last - before, part.groups);
    if (from < to) {
      if (part.bits == kBits) {
        multiply_part<kExpand, kBits, false>(buffers, part, before, from, to, stream, staged, span,
                                             sum);
      } else if constexpr (kExpand && kBits == 2) {
        if (part.bits == 4)
          multiply_part<kExpand, 4, true>(buffers, part, before, from, to, stream, staged, span,
                                          sum);
        else
          multiply_part<kExpand, 8, true>(buffers, part, before, from, to, stream, staged, span,
                                          sum);
      }
    }
    before += part.groups;
  }
}

/// At most `most` groups of the row block that the stream is at, and their results.
template <bool kExpand, int kBits, int kTokens, class Stream>
__device__ void multiply_block(const DeltaBuffers& buffers, int most, Stream& stream,
                               Staged<kTokens>& staged, const Span& span) {
  const DeltaSegment& segment = *stream.now.segment;
  const int n = min(most, stream.now.groups - stream.now.group);
  const int first_row = stream.now.block * block_rows(kBits);
  if constexpr (kTokens == 1) {
    using Own = LaneSlot<kBits, false>;
    const Own own;
    const int lane = static_cast<int>(threadIdx.x % 32);
    float by[2][2] = {}, sum[2][2] = {};
#pragma unroll
    for (int i = 0; i < 2 * Own::kPairs; ++i) {  // early: they come from afar
      const int row = first_row + 16 * (own.slot + i / 2 * 4) + lane / 4 + i % 2 * 8;
      if (row < segment.rows)
        by[i / 2][i % 2] = segment.row_factor == nullptr ? 1.0f : __ldg(segment.row_factor + row);
    }
    multiply_parts<kExpand, kBits>(buffers, n, stream, staged, span, sum);
    float* out = segment.target < 0 ? buffers.z + segment.z
                                    : buffers.y[segment.target] +
                                          segment.first_row * buffers.y_stride[segment.target];
    const float unit = 1.0f / static_cast<float>(1 << (kBits * own.field));
#pragma unroll
    for (int i = 0; i < 2 * Own::kPairs; ++i) {
      const int row = first_row + 16 * (own.slot + i / 2 * 4) + lane / 4 + i % 2 * 8;
      if (lane % 4 < Own::At::kCount && row < segment.rows) {
        atomicAdd(out + row, sum[i / 2][i % 2] * (i < 2 ? unit : unit / 16) * by[i / 2][i % 2]);
      }
    }
  } else {
    constexpr int kFields = 8 / kBits;
    float sum[kFields][1][4] = {};
    multiply_parts<kExpand, kBits>(buffers, n, stream, staged, span, sum);
#pragma unroll
    for (int field = 0; field < kFields; ++field) {
      add_results(buffers, segment, first_row + 16 * field, 0,
                  1.0f / static_cast<float>(1 << (kBits * field)), sum[field][0]);
    }
  }
  stream.advance(n);
}

/// The item of the first unit of a block of threads, and that unit: the block's share of a list,
/// whose length and starts are read at once. All threads together.
template <class Segment>
__device__ int first_item(const WorkList<Segment>& where, Work<Segment>& list, int& begin,
                          int& end) {
  constexpr int kLoads = 4, kThreads = 32 * kWarps;
  const int thread = static_cast<int>(threadIdx.x);
  const auto* starts = reinterpret_cast<const int32_t*>(where.head + 1);
  int start[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i)
    start[i] = thread + kThreads * i < where.capacity ? starts[thread + kThreads * i] : 0;
  list = open(where);
  begin = share_of(list.units, blockIdx.x, gridDim.x);
  end = share_of(list.units, int64_t{blockIdx.x} + 1, gridDim.x);
  int n = 0;  // items that begin at `begin` or before
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    if (kThreads * i < list.n)
      n += __syncthreads_count(thread + kThreads * i < list.n && start[i] <= begin);
  }
  return n - 1;  // or before, of a longer list
}

/// Packed codes times inputs that the block of threads quantizes: a persistent grid; every block
/// has an equal, contiguous share of the groups of all segments, every warp of it an equal,
/// contiguous share of those, and adds its partial sums to the results. Codes are on their way to a
/// warp before its inputs are there.
/// Grid: any, block (32 * kWarps), shared memory Staged and kWarps streams.
template <bool kExpand, int kTokens, int kStages>
__global__ void __launch_bounds__(32 * kWarps, 2)
    staged_kernel(const __grid_constant__ DeltaCall call,
                  const __grid_constant__ DeltaBuffers buffers) {
  extern __shared__ uint4 shared[];
  using Segment = typename ListOf<kExpand>::Segment;
  using Stream = GroupStream<Segment, kStages, true, true>;
  auto& staged = *reinterpret_cast<Staged<kTokens>*>(shared);
  const int warp = static_cast<int>(threadIdx.x / 32);
  if (kExpand) release_dependents();
  Work<Segment> list;
  int unit, end;
  const int item = first_item(ListOf<kExpand>::of(call), list, unit, end);
  const int first = unit + share_of(end - unit, warp, kWarps);
  const int last = unit + share_of(end - unit, warp + 1, kWarps);
  Stream stream;
  if (first < last) {
    stream.start(list, item_from(list, item, first), first, last,
                 shared + staged_size<kTokens>() + warp * (kStages * Stream::kSlot));
  }
  bool waits = true;
  while (unit < end) {
    if (warp == 0) plan<kTokens>(list, item, unit, end, staged);
    __syncthreads();
    stage<kExpand, kTokens>(list, buffers, waits, staged);
    if (waits && !kExpand) release_dependents();  // they may count on x
    waits = false;
    __syncthreads();
    unit = staged.until;
    int k = 0;
    while (stream.left > 0 && last - stream.left < unit) {
      const int most = min(stream.left, unit - (last - stream.left));
      while (k + 1 < staged.n_spans && staged.spans[k + 1].item <= stream.now.item) ++k;
      const Span& span = staged.spans[k];
      switch (stream.now.segment->bits) {
        case 1:
          multiply_block<kExpand, 1, kTokens>(buffers, most, stream, staged, span);
          break;
        case 2:
          multiply_block<kExpand, 2, kTokens>(buffers, most, stream, staged, span);
          break;
        case 4:
          multiply_block<kExpand, 4, kTokens>(buffers, most, stream, staged, span);
          break;
        default:
          multiply_block<kExpand, 8, kTokens>(buffers, most, stream, staged, span);
      }
    }
    if (unit < end) __syncthreads();  // before other inputs are staged
  }
  if (waits) wait_for_inputs();
  if (waits && !kExpand) release_dependents();
  if (kExpand) clear_next_z(buffers);
}

template <bool kExpand, int kTokens, int kStages>
cudaError_t launch(const DeltaCall& call, const DeltaBuffers& buffers, const DeltaLaunch& how) {
  constexpr size_t kShared =
      size_t{16} * (staged_size<kTokens>() + kWarps * kStages * slot_size(true));
  return launch_persistent(staged_kernel<kExpand, kTokens, kStages>, 32 * kWarps, kShared, call,
                           buffers, how, how.blocks_per_sm);
}

template <bool kExpand>
cudaError_t launch(const DeltaCall& call, const DeltaBuffers& buffers, const DeltaLaunch& how) {
  if (how.form != DeltaForm::kOneToken) return launch<kExpand, kMaxTokens, 3>(call, buffers, how);
  return how.stages > 3 ? launch<kExpand, 1, 4>(call, buffers, how)
                        : launch<kExpand, 1, 3>(call, buffers, how);
}

}  // namespace

cudaError_t launch_staged_shrink(const DeltaCall& call, const DeltaBuffers& buffers,
                                 const DeltaLaunch& how) {
  return launch<false>(call, buffers, how);
}

cudaError_t launch_staged_expand(const DeltaCall& call, const DeltaBuffers& buffers,
                                 const DeltaLaunch& how) {
  return launch<true>(call, buffers, how);
}

}  // namespace deltacome::cuda
