// SPDX-License-Identifier: Apache-2.0
#include "model/training_head.h"

#include <algorithm>
#include <vector>

#include "core/check.h"

namespace deltacome {

TrainingHead::TrainingHead(Backend& backend, Stream& stream, TrainedWeights& weights,
                           const HeadLimits& limits)
    : backend_(backend),
      stream_(stream),
      weights_(weights),
      ops_(backend.training()),
      limits_(limits) {}

double TrainingHead::run(const Tensor& hidden, const Targets& targets, const Tensor& d_hidden) {
  const int64_t n = hidden.rows(), width = hidden.cols(), vocab = weights_.vocab_size();
  DELTACOME_CHECK(n > 0 && targets.ids.rows() == n && targets.ids.cols() <= vocab);
  const int64_t most = std::clamp<int64_t>(limits_.logit_elements / vocab, 1, limits_.logit_rows);
  const int64_t n_pieces = (n + most - 1) / most;
  const int64_t rows = (n + n_pieces - 1) / n_pieces;
  const bool whole = vocab * width <= limits_.head_elements;
  const int64_t head_piece = std::clamp<int64_t>(limits_.head_elements / width, 1, vocab);
  const Tensor head = whole ? weights_.head_rows(0, vocab) : Tensor{};
  double loss = 0;
  for (int64_t first = 0; first < n; first += rows) {
    const int64_t count = std::min(rows, n - first);
    const auto part = [&](const Tensor& x) { return x.empty() ? x : x.slice(first, count); };
    const Targets of{part(targets.ids), part(targets.log_p), part(targets.weights)};
    loss += whole ? run_whole(head, part(hidden), of, part(d_hidden))
                  : run_in_pieces(head_piece, part(hidden), of, part(d_hidden));
  }
  return loss;
}

double TrainingHead::run_whole(const Tensor& head, const Tensor& hidden, const Targets& targets,
                               const Tensor& d_hidden) {
  const Tensor logits = logits_.take(backend_, {hidden.rows(), head.rows()});
  ops_.matmul(stream_, hidden, false, head, true, 0, logits);
  const double loss =
      ops_.kl_gradient(stream_, logits, head.rows(), targets.ids, targets.log_p, targets.weights);
  if (!d_hidden.empty()) ops_.matmul(stream_, logits, false, head, false, 0, d_hidden);
  return loss;
}

// Tensors have no strides: a piece of the vocabulary is rows of the transposed logits.
double TrainingHead::run_in_pieces(int64_t piece, const Tensor& hidden, const Targets& targets,
                                   const Tensor& d_hidden) {
  const int64_t n = hidden.rows(), vocab = weights_.vocab_size();
  const Tensor logits = logits_.take(backend_, {n, vocab});
  const Tensor transposed = transposed_.take(backend_, {vocab, n});
  for (int64_t first = 0; first < vocab; first += piece) {
    const int64_t count = std::min(piece, vocab - first);
    ops_.matmul(stream_, weights_.head_rows(first, count), false, hidden, true, 0,
                transposed.slice(first, count));
  }
  ops_.transpose(stream_, transposed, logits);
  const double loss =
      ops_.kl_gradient(stream_, logits, vocab, targets.ids, targets.log_p, targets.weights);
  if (d_hidden.empty()) return loss;
  ops_.transpose(stream_, logits, transposed);
  for (int64_t first = 0; first < vocab; first += piece) {
    const int64_t count = std::min(piece, vocab - first);
    ops_.matmul(stream_, transposed.slice(first, count), true, weights_.head_rows(first, count),
                false, first == 0 ? 0.0f : 1.0f, d_hidden);
  }
  return loss;
}

}  // namespace deltacome
