// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define DELTACOME_HOST_DEVICE __host__ __device__
#else
#define DELTACOME_HOST_DEVICE
#endif

namespace deltacome::cuda {

// How deltas lie in device memory, and the tables that tell kernels what to multiply. Plain
// structs: kernels and host code share them, so this header keeps to C++17.
//
// Codes of 1, 2, 4 and 8 bits (3 bits: as 4) are tiles of 512 bytes, one 16-byte load of each lane
// of a warp. A tile is 128 / bits rows ("row block": 8 / bits fields of 16 rows) by 32 columns: a
// byte holds the codes of one column for rows r, r + 16, r + 32, ... from its lowest bits on. So a
// mask of a 32-bit word is an operand of the tensor cores' u8 x s8 product m16n8k32 without a
// shift: field f is 2^(bits f) times its codes, which the row's factor takes out again. Of a tile,
// lane 4 g + j, 32-bit word h + 2 p, byte b: rows g + 8 h (+ 16 f), column 8 j + 4 p + b. The tiles
// of a row block follow each other by column, row blocks by row. Four tiles are a group of 128
// columns, which share a scale of the input and, if the format has them, an fp16 scale a row.
//
// U: tiers whose codes have 2 bits, and small ones (at most 32 columns of 4 or 8 bits), share
// blocks of 64 rows: in each, the tiles of one tier follow those of the tier before, of a small one
// the tiles of its 2 or 4 row blocks. So one warp sums all tiers of an output.
//
// Vector codes: blocks of 32 rows by 64 codes, 2,048 bytes: see pack_vector().

constexpr int kTileCols = 32;
constexpr int kTileBytes = 512;
constexpr int kGroupTiles = 4;
constexpr int kGroupCols = kTileCols * kGroupTiles;  // = kActivationGroup of quant/coded_products.h
constexpr int kScaleRows = 64;                       // rows whose scales of a group lie together
constexpr int kVectorRows = 32;                      // rows of a block of vector codes
constexpr int kVectorCodes = 64;                     // codes of a row in a block, = kEntryGroup
constexpr int kMaxTargets = 4;                       // of one launch
constexpr int kTierLaunches = 8;                     // = kMaxTiers of quant/format.h
constexpr int kMaxParts = 4;                         // tiers that share row blocks
constexpr int kMaxTokens = 8;                        // columns of one product of the tensor cores

DELTACOME_HOST_DEVICE constexpr int64_t ceil_to(int64_t n, int64_t step) {
  return (n + step - 1) / step * step;
}
DELTACOME_HOST_DEVICE constexpr int block_rows(int bits) {
  return bits == 0 ? kVectorRows : 128 / bits;
}
/// Position of row r (of 64) among the scales of a group: a lane's rows are neighbours.
DELTACOME_HOST_DEVICE constexpr int scale_position(int r) {
  return r % 8 * 8 + r / 16 * 2 + r / 8 % 2;
}
/// Neighbouring entries of a row that a lane has of vector codes: whole operands of 8 columns.
DELTACOME_HOST_DEVICE constexpr int chunk_entries(int dim) {
  return dim % 8 == 0 ? 1 : dim == 6 ? 4 : 2;
}
/// 32-bit words of an entry of a code book in shared memory.
DELTACOME_HOST_DEVICE constexpr int entry_words(int dim) {
  return dim <= 4 ? 1 : dim <= 8 ? 2 : 4;
}

/// An array as archives store it (quant/format.h), or 16- and 32-bit numbers.
struct PlainArray {
  enum class Kind : uint8_t { kCodes, kF16, kBf16, kF32 };
  const uint8_t* low = nullptr;   // codes (of 3 bits: the 2-bit plane), or numbers
  const uint8_t* high = nullptr;  // of 3 bits: the 1-bit plane
  const uint16_t* scales = nullptr;
  int64_t rows = 0, cols = 0;
  int64_t scale_rows = 1, scale_cols = 1;  // never 0
  Kind kind = Kind::kCodes;
  uint8_t bits = 0;
};

/// A coded matrix [rows, cols] in device memory, in the layout of the kernels.
struct PackedMatrix {
  const void* codes = nullptr;
  const void* scales = nullptr;
  const float* row_factor = nullptr;
  const float* gains = nullptr;  // of inputs by row block, [ceil(rows / gain_rows)][padded cols]
  const void* book = nullptr;    // of vector codes
  int64_t rows = 0, cols = 0;
  int64_t gain_rows = 0;
  int64_t stride = 0;  // tiles from one run of row blocks to the next
  int together = 1;    // row blocks of a run
  int bits = 0;        // of tiles; 0: vector codes
  float center = 0;
  float factor = 1;
};
/// Position of a tile of a row block, whose row blocks have `tiles`, behind `codes`.
DELTACOME_HOST_DEVICE inline int64_t tile_position(const PackedMatrix& m, int64_t tiles,
                                                   int64_t block, int64_t tile) {
  return block / m.together * m.stride + block % m.together * tiles + tile;
}

/// Position of the 32-bit word of columns 4 i to 4 i + 3 among the 128 bytes of a prepared group of
/// tiles: what a lane j multiplies, columns 8 j to 8 j + 7 of each tile, lies together.
DELTACOME_HOST_DEVICE constexpr int entry_word(int i) {
  return i % 8 / 2 * 8 + i / 8 * 2 + i % 2;
}

/// A row of the input to prepare: x[row] * gains, rotated, as int8 with a scale for each `group`.
/// For tiles, groups are in the order of entry_word().
struct InputJob {
  const float* gains = nullptr;  // [cols] or null
  uint64_t seed = 0;             // of the rotation's signs
  int64_t out = 0;               // first byte of the row in the prepared inputs
  int64_t scales = 0;            // first pair of the row in the scales
  int32_t row = 0;               // of x
  int32_t cols = 0;
  int32_t padded = 0;  // columns of the prepared row; zeros behind `cols`
  int32_t block = 0;   // size of the Hadamard blocks; 0: no rotation
  int32_t group = 0;   // columns that share a scale
  int32_t chunk = 0;   // columns that one block of threads prepares
  float levels = 127;  // of the largest magnitude of a group
};

/// z of a tier of some tokens to prepare for U: times the gains of each block of its rows, as int8
/// with a scale for each group, in the order of entry_word(). Unit: a group of a token of a block,
/// in that order from the last.
struct ComponentJob {
  const float* gains = nullptr;  // [gain_blocks][32 tiles] or null
  int64_t z = 0;                 // first float of the first token
  int64_t out = 0;               // first byte, [gain_blocks][n_tokens][groups][128]
  int64_t scales = 0;            // first pair, [gain_blocks][n_tokens][groups]
  int32_t z_stride = 0;
  int32_t n_tokens = 0;
  int32_t gain_blocks = 1;
  int32_t tiles = 0;
  int32_t groups = 0;
};

/// What a segment multiplies for each of its row blocks: of U one part a tier, else one in all.
struct SegmentPart {
  const void* scales = nullptr;  // fp16 [64-row chunks][groups][64 in scale_position()] or null
  const float* gains = nullptr;  // of inputs, [ceil(rows / gain_rows)][padded cols] or null
  // Prepared inputs of the first token, and what is between those of tokens and of blocks of
  // gain_rows rows: bytes, and pairs of scales.
  int64_t in = 0, in_block = 0;
  int64_t in_scales = 0, scales_block = 0;
  int32_t in_stride = 0;
  int32_t scale_stride = 0;
  int32_t z = 0;  // of U: first component, behind the segment's
  int32_t cols = 0;
  int32_t tiles = 0;   // of a row block of the segment; vector codes: 4 a block
  int32_t groups = 0;  // of a row block: what a warp takes at a time
  int32_t bits = 0;    // of a code; 0: vector codes
  int32_t gain_rows = INT32_MAX;
  float center = 0;  // (2^stored bits - 1) / 2
  float factor = 1;  // of all rows
};

/// Coded matrices times the tokens of one variant, at most kMaxTokens * tiles of the launch.
struct DeltaSegment {
  const void* codes = nullptr;
  const float* row_factor = nullptr;  // [rows] or null
  const void* book = nullptr;         // entries [256][entry_words()] of vector codes
  // z: of U what it reads, of V what it writes (target -1). Floats.
  int64_t z = 0;
  int32_t z_stride = 0;
  int32_t target = -1;      // y of the launch, -1: z
  int32_t first_token = 0;  // among the plan's rows
  int32_t first_row = 0;    // the same of the batch
  int32_t n_tokens = 0;
  int32_t rows = 0;
  int32_t n_blocks = 0;  // row blocks
  int32_t stride = 0;    // tiles from one row block to the next
  int32_t groups = 0;    // of a row block, of all parts
  int32_t bits = 0;      // by which row blocks have their rows: block_rows()
  int32_t dim = 0;       // of vector codes
  int32_t tier = 0;      // of U
  int32_t n_parts = 1;
};
/// V, dense and vector codes.
struct InputSegment : DeltaSegment {
  SegmentPart parts[1];
};
/// U.
struct ComponentSegment : DeltaSegment {
  SegmentPart parts[kMaxParts];
};

/// y or z = or += factor * (array * gains) x in float32; or, transposed, y += (array)^T z.
struct PlainSegment {
  PlainArray array;
  const float* factor = nullptr;  // of results: [rows], transposed: [cols]; or null
  const float* gains = nullptr;   // of inputs: [cols]; or null
  int64_t in = 0;                 // of z, transposed
  int64_t out = 0;                // of z, if target is -1
  int32_t in_stride = 0;
  int32_t out_stride = 0;
  int32_t target = -1;
  int32_t first_out = 0;  // column of y that row 0 gives
  int32_t first_token = 0;
  int32_t n_tokens = 0;
  int32_t assigns = 0;  // y = instead of y +=
  int32_t tier = 0;     // of U
};

/// Rows of one variant in an embedding.
struct EmbeddingSegment {
  const void* codes = nullptr;  // tiles; null: `plain`
  const void* scales = nullptr;
  const float* row_factor = nullptr;
  PlainArray plain;  // the delta, if `codes` is null; rows 0: none
  PlainArray whole;  // rows from first_whole on replace the base's
  int64_t first_whole = 0;
  int32_t first_token = 0;
  int32_t n_tokens = 0;
  int32_t tiles = 0, groups = 0, bits = 0;
  float center = 0, factor = 1;
};

/// What there is of a list: item i begins at unit starts[i] of `units`. `starts` [n + 1] follow.
struct WorkHead {
  int32_t n = 0;
  int32_t units = 0;
};
/// Where a list is in device memory. That is part of a launch, which a captured graph keeps: other
/// variants are written to the same places, as long as there is room for `capacity` items.
template <class Item>
struct WorkList {
  const Item* items = nullptr;
  const WorkHead* head = nullptr;
  int32_t capacity = 0;
};

/// What one call of add_deltas() multiplies.
struct DeltaCall {
  WorkList<InputJob> inputs;            // of shrink; unit: a job
  WorkList<InputJob> vector_inputs;     // of vectors
  WorkList<InputSegment> shrink;        // V, dense; unit: a group of a row block
  WorkList<InputSegment> vectors;       // vector codes; unit: a block
  WorkList<ComponentJob> components;    // of expand
  WorkList<ComponentSegment> expand;    // U
  WorkList<PlainSegment> plain;         // of x; unit: a row
  WorkList<PlainSegment> plain_expand;  // U of z; unit: 32 columns
  /// [kTierLaunches + 1] in device memory: items of expand that are the first tiers of their
  /// matrices, the second ones, and so on; tier t is [tier_items[t], tier_items[t + 1]).
  const int32_t* tier_items = nullptr;
};

/// Pointers of a launch that are not the variants'.
struct DeltaBuffers {
  const float* x = nullptr;  // [n_rows, x_stride]
  int64_t x_stride = 0;
  int8_t* inputs = nullptr;       // prepared
  float* input_scales = nullptr;  // pairs: scale of a group, sum of its codes
  float* z = nullptr;             // zeros before a call
  float* next_z = nullptr;        // of the call before and of the next one: a call zeroes it
  int32_t n_next_z = 0;
  const int32_t* rows = nullptr;  // [n_rows] of the batch, variant by variant
  float* y[kMaxTargets] = {};
  int64_t y_stride[kMaxTargets] = {};
  /// A row block belongs to one warp, so that a row's sum does not depend on what else there is.
  bool whole_blocks = false;
  int32_t tier = -1;  // of expand, -1: all
  /// When the kernel begins: it waits for the one before it only at its end.
  bool x_is_there = false;
  /// Of one token: the kernel behind it may begin early.
  bool releases = true;
};

}  // namespace deltacome::cuda
