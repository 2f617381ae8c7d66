// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cuda/async_copy.cuh"
#include "backend/cuda/delta_device.cuh"

namespace deltacome::cuda {

// The stream of tiles of a warp through shared memory.

/// Groups of a row block after which a warp goes on to the next one. kRun 0: all of them. Else (of
/// one part) kRun groups of all row blocks, then the next kRun groups of all of them, so that a
/// warp has the inputs of few groups; unless there are few row blocks.
template <int kRun, class Segment>
__device__ inline int run_of(const Segment& segment) {
  return kRun == 0 || segment.n_blocks < kRun ? segment.groups : kRun;
}

/// The segments that a warp is at, in shared memory: what they say is needed again and again, and
/// reading it where it lies takes as long as a group of codes.
constexpr int kHeldSegments =
    4;  // copies are of up to kStages - 1 groups, each of a segment, ahead
template <class Segment>
struct HeldSegments {
  static constexpr int kBytes = (sizeof(Segment) + 15) / 16 * 16;
  static constexpr int kSize = kHeldSegments * kBytes / 16;  // of 16 bytes
  char* held;                                                // kSize, of the warp
  const Segment* items;                                      // of the list

  __device__ const Segment* at(int item) const {
    return reinterpret_cast<const Segment*>(held + item % kHeldSegments * kBytes);
  }
  /// Copies item `item`. All lanes.
  __device__ const Segment* bring(int item) {
    static_assert(sizeof(Segment) % 8 == 0);
    constexpr int kWords = sizeof(Segment) / 8;
    const auto* from = reinterpret_cast<const uint2*>(items + item);
    auto* to = reinterpret_cast<uint2*>(held + item % kHeldSegments * kBytes);
    __syncwarp();  // the one that was there is not read any more
#pragma unroll
    for (int i = 0; i < (kWords + 31) / 32; ++i) {
      const int word = 32 * i + static_cast<int>(threadIdx.x % 32);
      if (word < kWords) to[word] = from[word];
    }
    __syncwarp();
    return at(item);
  }
};

/// Where in a list of segments a warp is: at a group of a row block.
template <class Segment, int kRun>
struct Cursor {
  const Segment* segment = nullptr;
  int item = 0;
  int block = 0, n_blocks = 0;
  int group = 0, groups = 0;  // of all parts
  int first = 0, end = 0;     // groups of the run

  __device__ void begin_run(int at) {
    first = at;
    end = min(at + run_of<kRun>(*segment), groups);
  }
  __device__ void enter(const Segment* to, int its_item, int unit) {
    segment = to;
    item = its_item;
    groups = segment->groups;
    n_blocks = segment->n_blocks;
    const int run = run_of<kRun>(*segment);
    begin_run(kRun == 0 ? 0 : static_cast<unsigned>(unit) / (n_blocks * run) * run);
    const auto in_run = static_cast<unsigned>(unit - first * n_blocks);
    const auto length = static_cast<unsigned>(end - first);
    block = static_cast<int>(in_run / length);
    group = first + static_cast<int>(in_run % length);
  }
  /// By n groups, at most to the end of the run; `last`: there are no more.
  __device__ void advance(int n, bool last, const HeldSegments<Segment>& segments) {
    group += n;
    if (group < end) return;
    group = first;
    if (++block < n_blocks || last) return;
    if (end == groups) return enter(segments.at(item + 1), item + 1, 0);
    begin_run(end);
    group = first;
    block = 0;
  }
};

/// The same for copies. Tiles of a row block follow each other.
template <class Segment, int kRun>
struct CopyCursor {
  const Segment* segment = nullptr;
  int item = 0;
  const uint4* codes = nullptr;      // of the next group
  const uint32_t* scales = nullptr;  // of the next group, or null: 32 words
  int part = 0, tiles = 0;           // of this part of the row block: tiles that are left
  int groups = 0;                    // of the part and the run that are left
  int first = 0;                     // group of the run
  int block = 0, n_blocks = 0;

  __device__ void enter(const Cursor<Segment, kRun>& at) {
    segment = at.segment;
    item = at.item;
    block = at.block;
    n_blocks = at.n_blocks;
    first = at.first;
    codes = static_cast<const uint4*>(segment->codes) + int64_t{block} * segment->stride * 32;
    part = 0;
    int group = at.group;
    while (group >= segment->parts[part].groups) {
      codes += segment->parts[part].tiles * 32;
      group -= segment->parts[part++].groups;
    }
    enter_part(group);
    if (kRun > 0) groups = at.end - at.group;
  }
  /// At a group of the part, whose codes begin at `codes`.
  __device__ void enter_part(int group) {
    const SegmentPart& now = segment->parts[part];
    tiles = now.tiles - kGroupTiles * group;
    groups = now.groups - group;
    codes += kGroupTiles * 32 * group;
    if (now.gain_rows < segment->rows) {
      const int gain_block = block * block_rows(segment->bits) / now.gain_rows;
      for (int i = threadIdx.x % 32 * kSector; i < now.cols; i += 32 * kSector)
        prefetch(now.gains + int64_t{gain_block} * now.cols + i);
    }
    scales = static_cast<const uint32_t*>(now.scales);
    if (scales == nullptr) return;
    // 64 rows have their scales together.
    const int chunk = 2 * block >> (31 - __clz(segment->bits));
    scales += (int64_t{chunk} * now.groups + group) * 32;
  }
  __device__ int n_tiles() const { return min(kGroupTiles, tiles); }
  __device__ void advance(bool last, HeldSegments<Segment>& segments) {
    const int n = n_tiles();
    codes += n * 32;
    tiles -= n;
    if (scales != nullptr) scales += 32;
    if (--groups > 0 || last) return;
    if (kRun > 0 || ++part == segment->n_parts) next_block(segments);
    enter_part(first);
    if (kRun > 0) groups = min(groups, run_of<kRun>(*segment));
  }
  __device__ void next_block(HeldSegments<Segment>& segments) {
    part = 0;
    if (++block == n_blocks) {
      block = 0;
      first += run_of<kRun>(*segment);
      if (first >= segment->groups) {
        segment = segments.bring(++item);
        first = 0;
        n_blocks = segment->n_blocks;
      }
    }
    codes = static_cast<const uint4*>(segment->codes) + int64_t{block} * segment->stride * 32;
  }
};

/// 16-byte pieces of a group of tiles in shared memory: codes, and scales of 128 rows.
constexpr int kScaleSlot = kGroupTiles * 32;
DELTACOME_HOST_DEVICE constexpr int slot_size(bool has_scales) {
  return kGroupTiles * 32 + (has_scales ? 16 : 0);
}

/// A warp's stream of groups: copies run kStages - 1 groups ahead of the products. Every lane reads
/// the codes that it copied itself; scales are of all lanes.
template <class Segment, int kStages, bool kScales, bool kReadOnce, int kRun = 0>
struct GroupStream {
  static constexpr int kSlot = slot_size(kScales);
  /// Shared memory of a warp, of 16 bytes.
  static constexpr int kShared = kStages * kSlot + HeldSegments<Segment>::kSize;
  uint4* ring;  // [kStages][kSlot] of the warp
  HeldSegments<Segment> segments;
  Cursor<Segment, kRun> now;
  CopyCursor<Segment, kRun> ahead;
  int left = 0;        // groups to multiply
  int left_ahead = 0;  // groups to copy
  int slot = 0, slot_ahead = 0;
  uint64_t policy;

  /// Where in a warp's kShared its segments are.
  __device__ static HeldSegments<Segment> segments_in(uint4* shared, const Work<Segment>& list) {
    return {reinterpret_cast<char*>(shared + kStages * kSlot), list.items};
  }
  /// Units [begin, end) of the list, of which the first is of `item`. shared: kShared.
  __device__ void start(const Work<Segment>& list, int item, int begin, int end, uint4* shared) {
    ring = shared;
    segments = segments_in(shared, list);
    policy = cache_policy<kReadOnce>();
    now.enter(segments.bring(item), item, begin - list.starts[item]);
    ahead.enter(now);
    left = left_ahead = end - begin;
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) copy_next();
  }
  __device__ void copy_next() {
    if (left_ahead > 0) {
      const int lane = static_cast<int>(threadIdx.x % 32);
      uint4* to = ring + slot_ahead * kSlot;
      const uint4* from = ahead.codes + lane;
      const int n = ahead.n_tiles();
#pragma unroll
      for (int i = 0; i < kGroupTiles; ++i) {
        if (i < n) copy16(to + 32 * i + lane, from + 32 * i, policy);
      }
      if (kScales && ahead.scales != nullptr) {
        auto* scales = reinterpret_cast<uint32_t*>(to + kScaleSlot) + lane;
        copy4(scales, ahead.scales + lane);
        // Row blocks of 128 rows have two such pieces.
        if (ahead.segment->bits == 1)
          copy4(scales + 32, ahead.scales + lane + 32 * ahead.segment->parts[0].groups);
      }
      ahead.advance(--left_ahead == 0, segments);
    }
    commit_copies();  // also of nothing, so that groups can be counted
    slot_ahead = slot_ahead + 1 == kStages ? 0 : slot_ahead + 1;
  }
  /// The codes and scales of `now`, after the copy of another group has begun.
  __device__ const uint4* take() {
    if (kScales) __syncwarp();  // scales of the group before have been read
    copy_next();
    wait_copies<kStages - 1>();
    if (kScales) __syncwarp();
    const uint4* at = ring + slot * kSlot;
    slot = slot + 1 == kStages ? 0 : slot + 1;
    return at;
  }
  /// Past n groups of a row block that were taken.
  __device__ void advance(int n) {
    left -= n;
    now.advance(n, left == 0, segments);
  }
};

}  // namespace deltacome::cuda
