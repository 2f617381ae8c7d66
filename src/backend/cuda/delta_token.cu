// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta_kernels.h"
#include "backend/cuda/delta_products.cuh"
#include "backend/cuda/delta_window.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kStages = 3;  // groups on their way to a warp
constexpr int kRun = 4;     // groups of V that warps multiply of one row block after another

/// The input of a group as the tensor cores take it, the same in all columns.
struct OneInput {
  uint4 low, high;  // of tiles 0 and 1, 2 and 3: columns 8 j to 8 j + 7
  float2 scale_sum;
  __device__ OneInput() = default;
  __device__ OneInput(const uint4* entry, const float2* scale_sum_of) {
    const int j = static_cast<int>(threadIdx.x % 4);
    low = entry[2 * j];
    high = entry[2 * j + 1];
    scale_sum = *scale_sum_of;
  }
};

/// c = magic + a b.
__device__ void multiply_first(int (&c)[4], uint4 a, uint32_t mask, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%10,%10,%10};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(a.x & mask), "r"(a.y & mask), "r"(a.z & mask), "r"(a.w & mask), "r"(b0), "r"(b1),
        "r"(kMagic));
}
__device__ void multiply_next(int (&c)[4], uint4 a, uint32_t mask, uint32_t b0, uint32_t b1) {
  multiply_add<false>(c, a.x & mask, a.y & mask, a.z & mask, a.w & mask, b0, b1);
}

/// Rows of a byte: 8 / bits. Powers of two are not divided by.
__device__ int fields_of(int bits) {
  return 8 >> (31 - __clz(bits));
}

/// What a lane keeps of the results of one token: rows g and g + 8 of slot j of the row block (of
/// 1 bit: and of slot j + 4). The tensor cores give eight equal columns.
struct LaneSlot {
  int slot;
  bool owns;  // as the first of the lanes that have the slot
  __device__ explicit LaneSlot(int bits) {
    const int j = static_cast<int>(threadIdx.x % 4), n_slots = min(4, fields_of(bits));
    slot = j & (n_slots - 1);
    owns = j < n_slots;
  }
};

/// sum += the codes of this lane times its input. `weight`: of a code in its byte.
__device__ void add_codes(float2 x, float center, float weight, float relative, int low, int high,
                          float2 scales, float (&sum)[2]) {
  const float bias = center * x.y, by = x.x * relative;
  // Both exact: integers, or halves of them, below 2^23.
  sum[0] = fmaf(by * fmaf(-weight, bias, from_magic(low)), scales.x, sum[0]);
  sum[1] = fmaf(by * fmaf(-weight, bias, from_magic(high)), scales.y, sum[1]);
}

/// sum += a group of 1- or 2-bit codes times its input.
template <int kBits>
__device__ void multiply_one(const uint4* group, bool has_scales, float center, const OneInput& x,
                             float (&sum)[2][2]) {
  const int lane = static_cast<int>(threadIdx.x % 32), slot = lane % 4;
  uint4 a[kGroupTiles];
#pragma unroll
  for (int i = 0; i < kGroupTiles; ++i) a[i] = group[32 * i + lane];
  const auto* words = reinterpret_cast<const __half2*>(group + kScaleSlot);
#pragma unroll
  for (int pair = 0; pair < 2 / kBits; ++pair) {
    int c[4][4];
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const uint32_t mask = ((1u << kBits) - 1) * 0x01010101u << (kBits * (4 * pair + s));
      multiply_first(c[s], a[0], mask, x.low.x, x.low.y);
      multiply_next(c[s], a[1], mask, x.low.z, x.low.w);
      multiply_next(c[s], a[2], mask, x.high.x, x.high.y);
      multiply_next(c[s], a[3], mask, x.high.z, x.high.w);
    }
    int mine[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int low = slot % 2 == 0 ? c[0][2 * h] : c[1][2 * h];
      const int high = slot % 2 == 0 ? c[2][2 * h] : c[3][2 * h];
      mine[h] = slot < 2 ? low : high;
    }
    const float2 scales = has_scales ? __half22float2(words[lane + 32 * pair]) : float2{1, 1};
    const auto weight = static_cast<float>(1 << (kBits * (4 * pair + slot)));
    add_codes(x.scale_sum, center, weight, 1.0f, mine[0], mine[1], scales, sum[pair]);
  }
}

/// The same of 4 or 8 bits; small: of all columns of a part in row blocks of 64.
__device__ void multiply_wide(const uint4* group, bool has_scales, float center, int bits,
                              bool small, int quarter, const OneInput& x, float (&sum)[2]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int fields = bits == 4 ? 2 : 1, n_slots = small ? 4 : fields;
  const int own = lane % 4 & (n_slots - 1);
  int mine[2] = {};
#pragma unroll 1
  for (int slot = 0; slot < n_slots; ++slot) {
    const uint32_t mask = ((1u << bits) - 1) * 0x01010101u << (bits * (slot & (fields - 1)));
    int c[4];
    multiply_first(c, group[32 * (small ? slot >> (fields - 1) : 0) + lane], mask, x.low.x,
                   x.low.y);
    if (!small) {
      multiply_next(c, group[32 + lane], mask, x.low.z, x.low.w);
      multiply_next(c, group[64 + lane], mask, x.high.x, x.high.y);
      multiply_next(c, group[96 + lane], mask, x.high.z, x.high.w);
    }
    mine[0] = slot == own ? c[0] : mine[0];
    mine[1] = slot == own ? c[2] : mine[1];
  }
  const auto* words = reinterpret_cast<const __half2*>(group + kScaleSlot) + lane / 4 * 4;
  const int word = small ? own : bits == 4 ? 2 * quarter + own : quarter;
  const float2 scales = has_scales ? __half22float2(words[word]) : float2{1, 1};
  const auto weight = static_cast<float>(1 << (bits * (own & (fields - 1))));
  const float relative = small ? static_cast<float>(1 << (2 * own)) / weight : 1.0f;
  add_codes(x.scale_sum, center, weight, relative, mine[0], mine[1], scales, sum);
}

/// The next n groups of a part, whose inputs are at `entries` and `scale_sums`, one behind the
/// other. kBits 0: 4 or 8. `bits`: of the segment, `block`: its row block.
template <int kBits, class Stream>
__device__ void multiply_groups(const SegmentPart& part, int bits, int block, int n,
                                const uint4* entries, const float2* scale_sums, Stream& stream,
                                float (&sum)[2][2]) {
  // In registers: what is in memory is read again after each asynchronous copy.
  const bool has_scales = part.scales != nullptr;
  const float center = part.center;
  const int part_bits = part.bits, quarter = block & (part_bits / 2 - 1);
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
    const uint4* codes = stream.take();
    const OneInput x(entries + i * kEntryWords, scale_sums + i);
    if constexpr (kBits == 0) {
      multiply_wide(codes, has_scales, center, part_bits, part_bits != bits, quarter, x, sum[0]);
    } else {
      multiply_one<kBits>(codes, has_scales, center, x, sum);
    }
  }
}

/// The groups of one row block that the warp has, of a run, and their results.
template <bool kExpand, class Stream, int kWindow>
__device__ void multiply_block(const DeltaBuffers& buffers, Stream& stream, Window<kWindow>& own,
                               Held<kWindow>& held) {
  const auto& segment = *stream.now.segment;
  const int bits = segment.bits, block = stream.now.block;
  const int n = min(stream.left, stream.now.end - stream.now.group);
  const int lane = static_cast<int>(threadIdx.x % 32), n_slots = fields_of(bits);
  const LaneSlot place(bits);
  const int first_row = block * (16 * n_slots) + 16 * place.slot + lane / 4;
  float by[2][2] = {}, sum[2][2] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // early: they come from afar
    const int row = first_row + 64 * (i / 2) + 8 * (i % 2);
    if (4 * (i / 2) < n_slots && row < segment.rows)
      by[i / 2][i % 2] = segment.row_factor == nullptr ? 1.0f : __ldg(segment.row_factor + row);
  }
  int group = stream.now.group;
  const int last = group + n;
  for (int p = 0, before = 0; group < last; before += segment.parts[p++].groups) {
    const SegmentPart& part = segment.parts[p];
    const int end = min(last, before + part.groups);
    while (group < end) {
      if (held.item != stream.now.item || group < held.begin || group >= held.end) {
        // All of them only if the warp has as many: those of other row blocks are the same.
        const bool all = stream.left >= stream.now.end - stream.now.first;
        held.window = &own;
        held.item = stream.now.item;
        held.begin =
            all ? stream.now.first + (group - stream.now.first) / kWindow * kWindow : group;
        held.end = min(all ? stream.now.end : last, held.begin + kWindow);
        fill<kExpand>(buffers, segment, held.begin, held.end, held.begin, own);
      }
      const int at = group - held.begin;
      int stop = min(end, held.end);
      const uint4* entries = held.window->entries[at];
      const float2* scale_sums = &held.window->scale_sums[at];
      if (kExpand && has_row_gains(segment, part)) {
        fill_own(buffers, segment, part, group - before, block, at, *held.window, own);
        stop = group + 1;
        entries = own.own;
        scale_sums = own.own_scale_sum;
      }
      if (part.bits == 2) {
        multiply_groups<2>(part, bits, block, stop - group, entries, scale_sums, stream, sum);
      } else if (part.bits == 1) {
        multiply_groups<1>(part, bits, block, stop - group, entries, scale_sums, stream, sum);
      } else {
        multiply_groups<0>(part, bits, block, stop - group, entries, scale_sums, stream, sum);
      }
      group = stop;
    }
  }
  float* out = segment.target < 0 ? buffers.z + segment.z
                                  : buffers.y[segment.target] +
                                        segment.first_row * buffers.y_stride[segment.target];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first_row + 64 * (i / 2) + 8 * (i % 2);
    // Fields of a byte have their codes times a power of two.
    const float unit = __int_as_float((127 - bits * (place.slot + 4 * (i / 2))) << 23);
    if (place.owns && 4 * (i / 2) < n_slots && row < segment.rows)
      atomicAdd(out + row, sum[i / 2][i % 2] * unit * by[i / 2][i % 2]);
  }
  stream.advance(n);
}

/// Packed codes times the inputs of one token of each variant: a persistent grid; every warp has an
/// equal, contiguous share of the groups of all segments in the order of its cursor, quantizes the
/// inputs that it needs, and adds its partial sums to the results. Codes are on their way before
/// the inputs are there. The warps of a block quantize the first inputs together if they have many
/// groups, which mostly are of one segment.
/// Grid: any, block (32 * kWarps), shared memory of 16 * kShared.
template <bool kExpand>
struct TokenStream {
  static constexpr int kWindow = kExpand ? 16 : kRun;
  using Window = cuda::Window<kWindow>;
  using Segment = typename ListOf<kExpand>::Segment;
  using Type = GroupStream<Segment, kStages, true, true, kExpand ? 0 : kRun>;
  static constexpr int kWindowSize = static_cast<int>(sizeof(Window) / 16);
  static constexpr int kWarpShared = Type::kShared + kWindowSize;
  static constexpr int kShared = kWarps * kWarpShared + kWindowSize;
  static constexpr int kManyGroups = 8;  // of a warp
  static_assert(sizeof(Window) % 16 == 0);
};
template <bool kExpand>
__global__ void __launch_bounds__(32 * kWarps, 4)
    token_kernel(const __grid_constant__ DeltaCall call,
                 const __grid_constant__ DeltaBuffers buffers) {
  using Use = TokenStream<kExpand>;
  using Segment = typename Use::Segment;
  using Window = typename Use::Window;
  extern __shared__ uint4 shared[];
  __shared__ Held<Use::kWindow> first;  // what the first warp begins with
  const WorkList<Segment>& where = ListOf<kExpand>::of(call);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  uint4* own_shared = shared + warp * Use::kWarpShared;
  if (buffers.releases) release_dependents();
  prefetch_list(where);
  // Read beside the head of the list, not after it: enough for few variants.
  const auto* starts = reinterpret_cast<const int32_t*>(where.head + 1);
  const int start = lane < where.capacity ? starts[lane] : 0;
  const Work<Segment> list = open(where);
  const int index = static_cast<int>(blockIdx.x) * kWarps + warp;
  const int n_warps = static_cast<int>(gridDim.x) * kWarps;
  const int begin = share_of(list.units, index, n_warps);
  const int end = share_of(list.units, index + 1, n_warps);
  const bool many = list.units >= Use::kManyGroups * n_warps;  // then nobody has nothing
  typename Use::Type stream;
  if (begin < end) {
    const int item = list.n > 32 ? item_of(list, begin)
                                 : __popc(__ballot_sync(~0u, lane < list.n && start <= begin)) - 1;
    stream.start(list, item, begin, end, own_shared);
    if (!kExpand) prefetch_gains<kRun>(stream.now.segment->parts[0], stream.now.group);
  }
  auto& window = *reinterpret_cast<Window*>(own_shared + stream.kShared);
  auto& of_all = *reinterpret_cast<Window*>(shared + kWarps * Use::kWarpShared);
  Held<Use::kWindow> held;
  if (many && threadIdx.x == 0) {
    const auto& now = stream.now;
    first.window = &of_all;
    first.item = now.item;
    first.begin = now.first + (now.group - now.first) / Use::kWindow * Use::kWindow;
    first.end = min(now.end, first.begin + Use::kWindow);
  }
  if (!buffers.x_is_there) wait_for_inputs();
  if (many) {
    __syncthreads();
    held = first;
    const Segment& segment =
        *Use::Type::segments_in(shared, list).at(held.item);  // of the first warp
    const int each = (held.end - held.begin + kWarps - 1) / kWarps;
    const int from = held.begin + warp * each;
    fill<kExpand>(buffers, segment, from, min(held.end, from + each), held.begin, of_all);
    __syncthreads();
  }
  while (stream.left > 0) multiply_block<kExpand>(buffers, stream, window, held);
  if (kExpand) clear_next_z(buffers);
  // One block of threads is enough to outlast the kernel before; the others make room.
  if (buffers.x_is_there && blockIdx.x == 0) wait_for_inputs();
}

template <bool kExpand>
cudaError_t launch(const DeltaCall& call, const DeltaBuffers& buffers, const DeltaLaunch& how) {
  return launch_persistent(token_kernel<kExpand>, 32 * kWarps,
                           size_t{16} * TokenStream<kExpand>::kShared, call, buffers, how,
                           how.blocks_per_sm);
}

}  // namespace

cudaError_t launch_token_shrink(const DeltaCall& call, const DeltaBuffers& buffers,
                                const DeltaLaunch& how) {
  return launch<false>(call, buffers, how);
}

cudaError_t launch_token_expand(const DeltaCall& call, const DeltaBuffers& buffers,
                                const DeltaLaunch& how) {
  return launch<true>(call, buffers, how);
}

}  // namespace deltacome::cuda
