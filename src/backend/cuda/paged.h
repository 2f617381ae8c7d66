// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/element.h"

namespace deltacome::cuda {

// Rotation, the paged cache and attention over it. All pointers are in device memory; launchers
// return the launch's status.

/// Rows of a batch and where their sequences' keys are.
struct PagedRows {
  const int32_t* positions = nullptr;  // [n_rows]
  const int32_t* tables = nullptr;     // [n_rows]: where the sequence's blocks start in `blocks`
  const int32_t* blocks = nullptr;     // block tables of all sequences
  int64_t n_rows = 0;
};

/// A cache of keys or values [n_blocks, kKvBlock, n_kv_heads, head]: head_dim elements a head, or
/// of kInt8 head_dim codes and their scale, f32.
struct PagedCache {
  void* data = nullptr;
  Element type = Element::kF32;
};

/// table [n_rows, 2, half]: cos, then sin of position * inv_freq; the angle is rounded to f32
/// first.
cudaError_t launch_rotations(const PagedRows& rows, const float* inv_freq, int64_t half,
                             float* table, cudaStream_t stream);
/// Rotates the heads of x [n_rows, n_heads, 2 * half] in place.
struct Rope {
  const float* table = nullptr;
  float* x = nullptr;
  int64_t n_rows = 0, n_heads = 0, half = 0;
  bool overlaps = false;  // the kernel may begin before the one before it has ended (sm_90)
};
cudaError_t launch_rope(const Rope& args, cudaStream_t stream);

/// k, v [n_rows, n_heads, head_dim] into the caches.
struct StoreKv {
  PagedRows rows;
  const float* k = nullptr;
  const float* v = nullptr;
  PagedCache k_cache, v_cache;
  int n_heads = 0, head_dim = 0;
  bool overlaps = false;
};
cudaError_t launch_store_kv(const StoreKv& args, cudaStream_t stream);

struct Attention {
  PagedRows rows;
  PagedCache k, v;
  const float* q = nullptr;  // [n_rows, n_heads, head_dim]
  float* out = nullptr;      // the same
  int n_heads = 0, n_kv_heads = 0, head_dim = 0;
  int window = 0;  // keys a query sees, itself included; 0 = all
};
bool has_attention(int head_dim);

/// Keys of a row are attended to in pieces of as many, whatever the batch, so that a row's result
/// does not depend on it.
inline constexpr int kSplitKeys = 256;

/// Attention of single rows, each on its own.
struct AttentionRows {
  Attention of;
  const int32_t* row_ids = nullptr;  // [n]
  int n = 0;
  int n_splits = 1;           // the most that a row has
  float* partials = nullptr;  // [n, n_heads, n_splits, head_dim + 2] if n_splits > 1
  int* arrivals = nullptr;    // [n, n_heads], zeros before and after
  bool overlaps = false;
};
cudaError_t launch_attention_rows(const AttentionRows& args, cudaStream_t stream);

/// Neighbouring queries of one sequence.
struct QueryTile {
  int32_t first_row, count;  // count <= kQueryTile
};
inline constexpr int kQueryTile = 64;
/// Attention of tiles [n_tiles] of rows that share the reading of their keys, on the tensor cores.
/// flags [n_tiles, n_heads]: 1 where a result is not finite, else 0.
cudaError_t launch_attention_mma(const Attention& args, const QueryTile* tiles, int n_tiles,
                                 int* flags, cudaStream_t stream);
/// The same where flags are not 0, without tensor cores: the value of a key that a query does not
/// see is never read into its result, whatever it is.
cudaError_t launch_attention_tiles(const Attention& args, const QueryTile* tiles, int n_tiles,
                                   const int* flags, cudaStream_t stream);

}  // namespace deltacome::cuda
