// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include "backend/cuda/context.h"
#include "backend/cuda/delta_layout.h"
#include "backend/cuda/variant.h"

namespace deltacome::cuda {

/// Many rows of one variant in a call, and what they are multiplied with as bf16.
struct PromptGroup {
  struct Member {
    int target = 0;  // of the call
    const CudaTensor* tensor = nullptr;
  };
  int64_t first = 0, n_rows = 0;  // among the plan's rows
  std::vector<Member> members;
};
/// Whether a tensor is decoded for so many rows; others are multiplied as few rows are.
bool is_decoded(const CudaTensor& tensor, int64_t n_rows, const DecodeRows& from);
/// Whether any coded tensor is.
inline bool all_decoded(int64_t n_rows, const DecodeRows& from) {
  return n_rows >= std::max({from.low_rank, from.vector, from.dense});
}

/// y += delta x of the group's rows: inputs are prepared once, as bf16; factors (V, U), or rows of
/// whole deltas, are decoded to bf16 at most context.decoded_bytes at a time, and multiplied by
/// cuBLASLt, sums in f32. `order` [n_rows of the plan]: rows of the batch, on the host.
/// Stream-ordered.
void multiply_prompt(const CudaContext& context, CudaStream& stream, const PromptGroup& group,
                     std::span<const int32_t> order, const DeltaBuffers& buffers, int64_t n_in);

}  // namespace deltacome::cuda
