// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace deltacome {

/// One step of Adam without weight decay: m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2)
/// g^2, p -= rate * m' / (sqrt(v') + epsilon), primes with bias correction for `step` >= 1.
/// Ref: Kingma and Ba, arXiv:1412.6980.
struct AdamStep {
  float rate = 0;
  float beta1 = 0.9F, beta2 = 0.95F, epsilon = 1e-8F;
  int64_t step = 1;
};

/// What the backward pass of distillation needs besides the ops of inference, in float32; all
/// matrices row-major, stream-ordered; gradients that are sums over rows are added to, all others
/// overwritten. The backward of Backend::rope is rope() itself with negated frequencies. A backend
/// may have these ops or not (Backend::training() throws kUnsupported).
class TrainingOps {
 public:
  virtual ~TrainingOps() = default;

  /// c = op(a) op(b) + beta c; op transposes where asked.
  virtual void matmul(Stream& stream, const Tensor& a, bool transpose_a, const Tensor& b,
                      bool transpose_b, float beta, const Tensor& c) = 0;
  /// out = a^T, exactly.
  virtual void transpose(Stream& stream, const Tensor& a, const Tensor& out) = 0;
  /// What the codes of a delta say, gains and scales included (quant/codes.h): q f32 [base_rows,
  /// n_in]; of low rank q = U diag(s) [base_rows, rank] and v [rank, n_in], otherwise v is empty.
  /// blob: the bytes that `format` describes.
  virtual void decode(Stream& stream, const MatrixFormat& format, const Tensor& blob,
                      const Tensor& q, const Tensor& v) = 0;
  /// out = weight + diag(rows) q diag(cols): a weight with its delta as it is trained.
  /// weight [n_out, n_in] any floating dtype; q, out [n_out, n_in] f32; rows [n_out], cols [n_in]
  /// f32, empty = 1. out may be q. weight may be empty (= 0), q may be empty (then out = weight).
  virtual void compose(Stream& stream, const Tensor& weight, const Tensor& q, const Tensor& rows,
                       const Tensor& cols, const Tensor& out) = 0;
  /// Gradients of compose()'s gains: d_rows[o] += sum_i g[o, i] q[o, i] cols[i],
  /// d_cols[i] += sum_o g[o, i] q[o, i] rows[o]. g = the gradient of out. rows, cols, d_rows,
  /// d_cols may be empty (then 1, 1, not wanted, not wanted).
  virtual void gain_gradients(Stream& stream, const Tensor& g, const Tensor& q, const Tensor& rows,
                              const Tensor& cols, const Tensor& d_rows, const Tensor& d_cols) = 0;
  /// sums[i] += sum_j a[i, j] b[i, j].
  virtual void add_row_dots(Stream& stream, const Tensor& a, const Tensor& b,
                            const Tensor& sums) = 0;
  /// sums[j] += sum_i a[i, j]: the gradient of a bias.
  virtual void add_col_sums(Stream& stream, const Tensor& a, const Tensor& sums) = 0;

  /// Backward of Backend::rms_norm: x, dy, dx [n, k * d], weight [d] f32, d_weight [d] += or empty.
  /// dx may be dy.
  virtual void rms_norm_backward(Stream& stream, const Tensor& x, const Tensor& weight, double eps,
                                 const Tensor& dy, const Tensor& dx, const Tensor& d_weight) = 0;
  /// Causal attention of whole sequences, as Backend::attention with an empty cache: rows of the
  /// sequences follow each other, lengths[i] rows each. q, out [n, n_heads * head_dim], k, v [n,
  /// n_kv_heads * head_dim] f32.
  virtual void attention(Stream& stream, std::span<const int64_t> lengths,
                         const AttentionShape& shape, const Tensor& q, const Tensor& k,
                         const Tensor& v, const Tensor& out) = 0;
  /// Its backward; probabilities are computed again. dq, dk, dv are overwritten and do not alias.
  virtual void attention_backward(Stream& stream, std::span<const int64_t> lengths,
                                  const AttentionShape& shape, const Tensor& q, const Tensor& k,
                                  const Tensor& v, const Tensor& d_out, const Tensor& dq,
                                  const Tensor& dk, const Tensor& dv) = 0;
  /// Backward of out = silu(gate) * up. d_gate and d_up may be gate and up; d_out is left alone.
  virtual void silu_mul_backward(Stream& stream, const Tensor& gate, const Tensor& up,
                                 const Tensor& d_out, const Tensor& d_gate, const Tensor& d_up) = 0;

  /// weights[row] * KL(p || q) summed over rows, to the host (float64), where q = softmax of a
  /// row's logits over its first n_vocab columns and p is known by its k largest probabilities and
  /// the mass of the rest: sum_i p_i log(p_i / q_i) over the k, plus t log(t / q_t) with t = 1 -
  /// sum p_i and q_t the mass of q outside of the k. logits [n, >= n_vocab] are replaced by
  /// weights[row] * the gradient (columns beyond n_vocab by 0). ids [n, k] i32, distinct in a row;
  /// log_p [n, k], weights [n] f32.
  virtual double kl_gradient(Stream& stream, const Tensor& logits, int64_t n_vocab,
                             const Tensor& ids, const Tensor& log_p, const Tensor& weights) = 0;

  /// The k largest of the first n_vocab logits of each row, largest first, of equals the smaller
  /// id; log_p is their logarithm of the softmax over these columns. logits [n, >= n_vocab]; ids
  /// [n, k] i32, log_p [n, k].
  virtual void top_tokens(Stream& stream, const Tensor& logits, int64_t n_vocab, const Tensor& ids,
                          const Tensor& log_p) = 0;

  /// One step on n parameters: p, g, m, v f32 [n]; g is set to 0 after it.
  virtual void adam(Stream& stream, const AdamStep& step, const Tensor& p, const Tensor& g,
                    const Tensor& m, const Tensor& v) = 0;
};

}  // namespace deltacome
