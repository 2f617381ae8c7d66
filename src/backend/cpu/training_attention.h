// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "backend/cpu/runtime.h"
#include "backend/training_ops.h"

namespace deltacome::cpu {

/// The activations of an attention and, for its backward, their gradients; see TrainingOps.
struct AttentionTensors {
  const Tensor& q;    // [n, n_heads * head_dim]
  const Tensor& k;    // [n, n_kv_heads * head_dim]
  const Tensor& v;    // [n, n_kv_heads * head_dim]
  const Tensor& out;  // [n, n_heads * head_dim]; its gradient in the backward
};

void sequence_attention(const Runtime& runtime, std::span<const int64_t> lengths,
                        const AttentionShape& shape, const AttentionTensors& tensors);
void sequence_attention_backward(const Runtime& runtime, std::span<const int64_t> lengths,
                                 const AttentionShape& shape, const AttentionTensors& tensors,
                                 const Tensor& dq, const Tensor& dk, const Tensor& dv);

}  // namespace deltacome::cpu
