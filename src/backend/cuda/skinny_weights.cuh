// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cuda/async_copy.cuh"
#include "backend/cuda/skinny.h"

namespace deltacome::cuda {

// The weights of launch_skinny() on their way to the warps that multiply them.

inline constexpr int kSkinnyWarps = 8;  // of a block, which split n_in among them
inline constexpr int kOutputs = 16;     // of a tile
inline constexpr int kPiece = 128;      // inputs that a warp reads at a time: 256 bytes of a row
inline constexpr int kSteps = kPiece / 32;     // of four lanes that read 8 inputs each
inline constexpr int kSlot = 2 * kSteps * 32;  // 16 bytes of a piece of 16 outputs

__host__ __device__ constexpr int ring_bytes(int stages) {
  return kSkinnyWarps * stages * kSlot * 16;
}

/// 16 outputs of a target.
struct Tile {
  int target = 0;
  int64_t first = 0;
  __device__ Tile(const Skinny& a, int tile) {
    for (; target + 1 < a.n_targets; ++target) {
      const int n = static_cast<int>((a.targets[target].n_out + kOutputs - 1) / kOutputs);
      if (tile < n) break;
      tile -= n;
    }
    first = int64_t{tile} * kOutputs;
  }
};

/// The pieces of a warp in the order in which it multiplies them: of kTiles tiles of the block in
/// turn those of a part of n_in, then of the next part, then of the next tiles.
template <class T, int kTiles>
struct WeightWalk {
  const Skinny& a;
  int n_tiles, n_pieces;
  int part;       // pieces of n_in
  int tiles;      // the first of the kTiles
  int tile = 0;   // of these
  int begin = 0;  // of the part
  int piece;
  const T* rows[2] = {};  // of this lane

  __device__ WeightWalk(const Skinny& args, int all_tiles, int all_pieces, int pieces_of_part)
      : a(args), n_tiles(all_tiles), n_pieces(all_pieces), part(pieces_of_part), piece(warp()) {
    tiles = piece < n_pieces ? static_cast<int>(blockIdx.x) : n_tiles;
    enter();
  }
  __device__ bool done() const { return tiles >= n_tiles; }
  __device__ void next() {
    piece += kSkinnyWarps;
    if (piece < min(begin + part, n_pieces)) return;
    ++tile;
    if (tile == kTiles || current() >= n_tiles) {
      tile = 0;
      begin += part;
      if (begin + warp() >= n_pieces) {
        begin = 0;
        tiles += kTiles * static_cast<int>(gridDim.x);
      }
    }
    piece = begin + warp();
    enter();
  }

 private:
  static __device__ int warp() { return static_cast<int>(threadIdx.x / 32); }
  __device__ int current() const { return tiles + tile * static_cast<int>(gridDim.x); }
  __device__ void enter() {
    if (done()) return;
    const Tile now(a, current());
    const Skinny::Target& target = a.targets[now.target];
    const int group = threadIdx.x % 32 / 4, quarter = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // Rows beyond the last are read as the last, and their sums dropped.
      const int64_t row = min(now.first + 8 * h + group, target.n_out - 1);
      rows[h] = static_cast<const T*>(target.w) + row * a.n_in + 8 * quarter;
    }
  }
};

/// A warp's pieces on their way through shared memory. Each lane copies what it multiplies, 8
/// neighbours of its rows at a time, so that nothing is synchronized.
template <class T, int kTiles, int kStages>  // kStages: pieces of a warp in shared memory
struct WeightStream {
  WeightWalk<T, kTiles> walk;
  uint4* ring;  // of the warp, at this lane: [kStages][2 rows][kSteps][32]
  int slot = 0, slot_ahead = 0;
  uint64_t policy = cache_policy<true>();

  /// Begins the first copies.
  __device__ WeightStream(const WeightWalk<T, kTiles>& order, uint4* shared) : walk(order) {
    ring = shared + threadIdx.x / 32 * (kStages * kSlot) + threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) copy_next();
  }
  /// The next piece, after the copy of another one has begun.
  __device__ const uint4* take() {
    copy_next();
    wait_copies<kStages - 1>();
    const uint4* at = ring + slot * kSlot;
    slot = slot + 1 == kStages ? 0 : slot + 1;
    return at;
  }

 private:
  __device__ void copy_next() {
    if (!walk.done()) {
      uint4* to = ring + slot_ahead * kSlot;
      const int64_t first = walk.piece * int64_t{kPiece};
      const auto left = walk.a.n_in - 8 * static_cast<int>(threadIdx.x % 4) - first;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const bool inside = 32 * s < left;
#pragma unroll
        for (int h = 0; h < 2; ++h)
          copy16_of_row(to + (h * kSteps + s) * 32,
                        inside ? walk.rows[h] + first + 32 * s : walk.rows[h], inside, policy);
      }
      walk.next();
    }
    commit_copies();  // also of nothing, so that groups can be counted
    slot_ahead = slot_ahead + 1 == kStages ? 0 : slot_ahead + 1;
  }
};

}  // namespace deltacome::cuda
