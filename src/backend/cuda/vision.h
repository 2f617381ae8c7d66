// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/element.h"

namespace deltacome::cuda {

// The ops of a vision tower. A picture is some hundred rows, once per request: plain kernels. All
// pointers are in device memory, activations f32; launchers return the launch's status.

/// y = (x - mean) / sqrt(variance + eps) * weight + bias over rows of d; x, y [n_rows, d]. y may be
/// x.
struct LayerNorm {
  const float* x = nullptr;
  float* y = nullptr;
  const void* weight = nullptr;  // [d]
  Element weight_type = Element::kF32;
  const void* bias = nullptr;  // [d]
  Element bias_type = Element::kF32;
  int64_t n_rows = 0, d = 0;
  float eps = 0;
};
cudaError_t launch_layer_norm(const LayerNorm& args, cudaStream_t stream);

/// x[i] = gelu(x[i]) in the form of core/gelu.h with this number.
cudaError_t launch_gelu(int form, float* x, int64_t n, cudaStream_t stream);

/// Rows that full attention takes: their scores are in shared memory.
constexpr int64_t kMaxFullAttentionRows = 11000;

/// Every row of q sees all rows of k and v; all [n, n_heads * head_dim].
struct FullAttention {
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  float* out = nullptr;
  int64_t n = 0, n_heads = 0, head_dim = 0;
};
cudaError_t launch_full_attention(const FullAttention& args, cudaStream_t stream);

}  // namespace deltacome::cuda
