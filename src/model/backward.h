// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "backend/training_ops.h"
#include "model/model.h"
#include "model/scratch_tensor.h"

namespace deltacome {

/// Who owns the weights of a pass and takes their gradients. Tensors f32, of the model's backend.
/// Weights do not change during BackwardPass::run().
class TrainedWeights {
 public:
  virtual ~TrainedWeights() = default;
  /// The effective weight [n_out, n_in]; valid until the next call of projection().
  virtual Tensor projection(const LinearWeights& w) = 0;
  virtual Tensor bias(const LinearWeights& w) = 0;    // [n_out] or empty
  virtual Tensor norm(const Weight& w) = 0;           // [d]
  virtual Tensor norm_gradient(const Weight& w) = 0;  // [d], added to; empty = not wanted
  /// Rows of lm_head, delta included: [count, hidden]; valid until the next call.
  virtual Tensor head_rows(int64_t first, int64_t count) = 0;
  virtual int64_t vocab_size() = 0;
  /// y [n, hidden] = the embeddings of ids [n].
  virtual void embed(Stream& stream, std::span<const int32_t> ids, const Tensor& y) = 0;
  /// y = x W^T had gradient dy: x [n, n_in], dy [n, n_out]; valid during the call. Called once per
  /// projection of a layer: down, up, gate, o, v, k, q; projection(w) is asked for right after it.
  virtual void projection_gradient(const LinearWeights& w, const Tensor& x, const Tensor& dy) = 0;
};

/// Bounds of what the head of a pass holds at a time.
struct HeadLimits {
  int64_t logit_rows = 1024;
  int64_t logit_elements = 1 << 24;  // 64 MiB; twice that if lm_head is in pieces
  int64_t head_elements = 1 << 24;   // of lm_head; a larger one is asked for in pieces
};

class TrainingHead;

/// The loss of distillation and its gradient through all layers, dense and unpaged. Between forward
/// and backward only each layer's input is kept, [n_layers + 1, n, hidden]; the inside of a layer
/// is computed again. Buffers are kept from run to run. One thread at a time (the backend's rule).
/// Ref: Chen et al. (checkpointing), arXiv:1604.06174.
class BackwardPass {
 public:
  /// Throws kUnsupported if the backend has no training ops. All three outlive the pass.
  BackwardPass(const Model& model, Stream& stream, TrainedWeights& weights,
               const HeadLimits& limits = {});
  ~BackwardPass();

  /// What the positions of some sequences are compared with, in order.
  struct Targets {
    int64_t k = 0;
    std::span<const int32_t> ids;    // [n_positions, k]
    std::span<const float> log_p;    // [n_positions, k]
    std::span<const float> weights;  // [n_positions]; empty = all 1
  };
  /// Mean over positions of weight * KL(p || q), p as TrainingOps::kl_gradient has it (top-k and
  /// tail). With `backward`, gradients of that mean go to the weights. Requires a position, k <=
  /// vocab_size().
  double run(std::span<const std::span<const int32_t>> sequences, const Targets& targets,
             bool backward);

 private:
  /// The inside of one layer, and gradients; rows are tokens, f32.
  struct Activations {
    Tensor attention_in;  // [n, hidden] input of q, k, v
    Tensor q_raw, k_raw;  // [n, heads * head_dim] before the q/k norms; q, k without these
    Tensor q, k, v;       // [n, heads * head_dim] as attention takes them
    Tensor mixed;         // [n, n_heads * head_dim] attention's output
    Tensor middle;        // [n, hidden] residual stream between attention and MLP
    Tensor mlp_in;        // [n, hidden] input of gate, up
    Tensor gate, up;      // [n, intermediate]
    Tensor product;       // [n, intermediate] silu(gate) * up, the input of down
    Tensor d_hidden;      // [n, hidden] gradient of the residual stream
    Tensor d_normed;      // [n, hidden]
    Tensor dq, dk, dv;    // as q, k, v
  };

  /// Plans and buffers for sequences of these lengths.
  void prepare(std::vector<int64_t> lengths);
  void take_buffers();
  void norm(const Weight& w, const Tensor& x, const Tensor& y);
  /// dx = the gradient of the norm's input; dx may be dy.
  void norm_backward(const Weight& w, const Tensor& x, const Tensor& dy, const Tensor& dx);
  void project(const LinearWeights& w, const Tensor& x, const Tensor& y);  // y = x W^T + b
  /// Hands out the gradient of W and adds to (beta 1) or sets (0) dx. dx may be x.
  void project_backward(const LinearWeights& w, const Tensor& x, const Tensor& dy, float beta,
                        const Tensor& dx);
  AttentionShape attention_shape(int64_t layer) const;
  /// Everything of a layer up to the input of down.
  void run_inside(int64_t layer);
  void mlp_backward(int64_t layer);
  void attention_backward(int64_t layer);
  const LayerWeights& layer_weights(int64_t layer) const {
    return model_.weights().layers[static_cast<size_t>(layer)];
  }

  const Model& model_;
  Stream& stream_;
  TrainedWeights& weights_;
  Backend& backend_;
  TrainingOps& ops_;
  std::unique_ptr<TrainingHead> head_;
  Tensor negated_freq_;  // [head_dim / 2] -inv_freq: rope backwards

  std::vector<int64_t> lengths_;
  int64_t n_rows_ = 0;  // sum of lengths_
  std::unique_ptr<VariantPlan> base_rows_;
  std::unique_ptr<AttentionPlan> positions_, positions_backward_;  // a plan keeps its rotations
  Tensor ones_;                 // [n, 1]: spreads a bias over rows
  std::vector<Tensor> hidden_;  // n_layers + 1 of [n, hidden]: layers' inputs, the last's output
  Activations a_;
  std::array<ScratchTensor, 18> scratch_;
  ScratchTensor ids_memory_, log_p_memory_, weights_memory_;
};

}  // namespace deltacome
