// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/element.h"

namespace deltacome::cuda {

// Kernels of distillation and their launchers, see TrainingOps. All pointers are in device memory,
// matrices f32 and row-major; launchers return the launch's status.

/// Floats of scratch that a sum over `n_rows` rows of `width` columns needs.
int64_t column_sum_scratch(int64_t n_rows, int64_t width);

/// out = weight + diag(rows) q diag(cols). weight.data, q, rows, cols may be null.
struct Compose {
  Matrix weight;  // [n_out, n_in]
  const float* q = nullptr;
  const float *rows = nullptr, *cols = nullptr;
  float* out = nullptr;
  int64_t n_out = 0, n_in = 0;
};
cudaError_t launch_compose(const Compose& args, cudaStream_t stream);

/// d_rows[o] += sum_i g q cols[i], d_cols[i] += sum_o g q rows[o]; all but g and q may be null.
/// scratch: column_sum_scratch(n_out, n_in), if d_cols is there.
struct GainGradients {
  const float *g = nullptr, *q = nullptr;  // [n_out, n_in]
  const float *rows = nullptr, *cols = nullptr;
  float *d_rows = nullptr, *d_cols = nullptr;
  float* scratch = nullptr;
  int64_t n_out = 0, n_in = 0;
};
cudaError_t launch_gain_gradients(const GainGradients& args, cudaStream_t stream);

/// sums[i] += sum_j a[i, j] b[i, j]; a, b [n, d].
cudaError_t launch_add_row_dots(const float* a, const float* b, int64_t n, int64_t d, float* sums,
                                cudaStream_t stream);
/// sums[j] += sum_i a[i, j]; a [n, d].
cudaError_t launch_add_col_sums(const float* a, int64_t n, int64_t d, float* sums, float* scratch,
                                cudaStream_t stream);

/// Backward of the norm of `n` pieces of `d` elements. dx may be dy; d_weight may be null. scratch:
/// 2 n floats, and column_sum_scratch(n, d) if d_weight is there.
struct RmsNormBackward {
  const float *x = nullptr, *weight = nullptr, *dy = nullptr;
  float *dx = nullptr, *d_weight = nullptr;
  float* scratch = nullptr;
  int64_t n = 0, d = 0;
  double eps = 0;
};
cudaError_t launch_rms_norm_backward(const RmsNormBackward& args, cudaStream_t stream);

cudaError_t launch_silu_mul_backward(const float* gate, const float* up, const float* d_out,
                                     float* d_gate, float* d_up, int64_t n, cudaStream_t stream);

/// A step of Adam on n parameters: `rate` and `root` hold the corrections of its bias.
struct AdamUpdate {
  float beta1 = 0, beta2 = 0, epsilon = 0, rate = 0, root = 0;
  int64_t n = 0;
  float *p = nullptr, *g = nullptr, *m = nullptr, *v = nullptr;
};
cudaError_t launch_adam(const AdamUpdate& args, cudaStream_t stream);

/// Scores of some queries and all keys that any of them sees: query i of a head is at `position` +
/// i of its sequence, key j at `first_key` + j; it sees itself and what is before it, `window` keys
/// at most (0 = all). scores [n_heads, n_queries, n_keys].
struct Scores {
  int64_t n_heads = 0, n_queries = 0, n_keys = 0;
  int64_t position = 0, first_key = 0, window = 0;
  float scale = 1;
};
/// Scores become probabilities, 0 for unseen keys.
cudaError_t launch_softmax(const Scores& shape, float* scores, cudaStream_t stream);
/// The same, and gradients of probabilities [same shape] become those of the scores before scale.
cudaError_t launch_softmax_backward(const Scores& shape, float* scores, float* gradients,
                                    cudaStream_t stream);

/// See TrainingOps::kl_gradient(); losses [n] f64 are weighted.
struct KlGradient {
  float* logits = nullptr;  // [n, width]
  int64_t n = 0, width = 0, n_vocab = 0;
  const int32_t* ids = nullptr;    // [n, k]
  const float* log_p = nullptr;    // [n, k]
  const float* weights = nullptr;  // [n]
  int64_t k = 0;                   // at most kMostTargets
  double* losses = nullptr;
};
inline constexpr int64_t kMostTargets = 2048;  // their logits lie in shared memory
cudaError_t launch_kl_gradient(const KlGradient& args, cudaStream_t stream);

/// See TrainingOps::top_tokens(); k is at most kMostTargets.
struct TopTokens {
  const float* logits = nullptr;  // [n, width]
  int64_t n = 0, width = 0, n_vocab = 0;
  int k = 0;
  int32_t* ids = nullptr;  // [n, k]
  float* log_p = nullptr;  // [n, k]
};
cudaError_t launch_top_tokens(const TopTokens& args, cudaStream_t stream);

}  // namespace deltacome::cuda
