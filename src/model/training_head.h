// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/training_ops.h"
#include "model/backward.h"
#include "model/scratch_tensor.h"

namespace deltacome {

/// The end of a BackwardPass: logits, loss and the gradient of the hidden states, for pieces of
/// rows and, if lm_head is large, pieces of the vocabulary.
class TrainingHead {
 public:
  TrainingHead(Backend& backend, Stream& stream, TrainedWeights& weights, const HeadLimits& limits);

  /// What the rows of hidden [n, hidden_size] (after the final norm) are compared with.
  struct Targets {
    Tensor ids, log_p;  // [n, k] i32, f32
    Tensor weights;     // [n] f32
  };
  /// Sum of weight * KL. d_hidden [n, hidden_size] = its gradient; empty = not wanted. It may be
  /// `hidden`.
  double run(const Tensor& hidden, const Targets& targets, const Tensor& d_hidden);

 private:
  /// lm_head whole: logits [rows, vocab] = hidden head^T.
  double run_whole(const Tensor& head, const Tensor& hidden, const Targets& targets,
                   const Tensor& d_hidden);
  /// lm_head in pieces of `piece` rows.
  double run_in_pieces(int64_t piece, const Tensor& hidden, const Targets& targets,
                       const Tensor& d_hidden);

  Backend& backend_;
  Stream& stream_;
  TrainedWeights& weights_;
  TrainingOps& ops_;
  HeadLimits limits_;
  ScratchTensor logits_, transposed_;
};

}  // namespace deltacome
