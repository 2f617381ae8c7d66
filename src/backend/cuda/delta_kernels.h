// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "backend/cuda/delta_layout.h"

namespace deltacome::cuda {

/// How kernels of deltas are launched.
struct DeltaLaunch {
  cudaStream_t stream = nullptr;
  int n_sms = 1;
  int token_tiles = 1;  // 1, 2 or 4: tokens of a segment, in tiles of kMaxTokens
  /// The kernel begins before the one before it in the stream has ended, and waits for it inside
  /// (programmatic dependent launch; not on devices before Hopper).
  bool overlaps = true;
  /// No segment has more than one token: packed codes have kernels for that.
  bool one_token = false;
  /// Inputs of packed codes are prepared by launches of their own (of one token: those of V); else
  /// each warp quantizes what it multiplies: at most kMaxTokens of a segment, and if they are
  /// several, whole tiles of columns.
  bool prepares = true;
  /// A row's result does not depend on the others of the batch, not even in its last bits: row
  /// blocks are not shared by warps, and tiers of a matrix follow each other. Slow for few rows.
  bool deterministic = false;
  /// Of those with one token, at most; 0: as many as fit. With few, the next kernel's codes are on
  /// their way while this one runs.
  int blocks_per_sm = 0;
};

// Each launcher is stream-ordered and returns the launch's status.

/// Prepares the inputs of packed codes, or of vector codes.
cudaError_t launch_inputs(const DeltaCall& call, const DeltaBuffers& buffers, bool vectors,
                          const DeltaLaunch& how);
/// Prepares z for U.
cudaError_t launch_components(const DeltaCall& call, const DeltaBuffers& buffers,
                              const DeltaLaunch& how);
/// y or z += packed codes times x: V, dense deltas.
cudaError_t launch_shrink(const DeltaCall& call, const DeltaBuffers& buffers,
                          const DeltaLaunch& how);
/// y += U z; clears the next call's z.
cudaError_t launch_expand(const DeltaCall& call, const DeltaBuffers& buffers,
                          const DeltaLaunch& how);
/// What these two are if `how` has one token.
cudaError_t launch_token_shrink(const DeltaCall& call, const DeltaBuffers& buffers,
                                const DeltaLaunch& how);
cudaError_t launch_token_expand(const DeltaCall& call, const DeltaBuffers& buffers,
                                const DeltaLaunch& how);
/// y += vector codes times prepared inputs.
cudaError_t launch_vectors(const DeltaCall& call, const DeltaBuffers& buffers,
                           const DeltaLaunch& how);
/// Arrays in float32: rows times x, or U times z (components).
cudaError_t launch_plain(const DeltaCall& call, const DeltaBuffers& buffers, bool components,
                         const DeltaLaunch& how);
/// y [n_rows, cols] f32: rows of `list` += their delta, or = what replaces the base's. ids [n_rows]
/// and rows (of the batch, by variant) in device memory.
cudaError_t launch_embedding(const WorkList<EmbeddingSegment>& list, const int32_t* ids,
                             const int32_t* rows, int64_t cols, float* y, const DeltaLaunch& how);

/// Launches a kernel of a call on as many blocks as the device runs at once, or at most
/// blocks_per_sm.
cudaError_t launch_persistent(void (*kernel)(DeltaCall, DeltaBuffers), int threads,
                              size_t shared_bytes, const DeltaCall& call,
                              const DeltaBuffers& buffers, const DeltaLaunch& how,
                              int blocks_per_sm = 0);

}  // namespace deltacome::cuda
