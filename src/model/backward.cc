// SPDX-License-Identifier: Apache-2.0
#include "model/backward.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "model/rope.h"
#include "model/training_head.h"

namespace deltacome {
namespace {

/// Where the rows of a batch are in their sequences. The plan is for rope alone: its block tables
/// are as long as they must be, but name no blocks.
std::unique_ptr<AttentionPlan> plan_positions(Backend& backend, std::span<const int64_t> lengths) {
  int64_t longest = 0;
  for (const int64_t n : lengths) longest = std::max(longest, n);
  const std::vector<int32_t> blocks(static_cast<size_t>(KvCache::blocks_for(longest)));
  std::vector<SequenceChunk> chunks;
  for (const int64_t n : lengths) {
    chunks.push_back({n, 0, std::span(blocks).first(static_cast<size_t>(KvCache::blocks_for(n)))});
  }
  return backend.plan_attention(chunks);
}

Tensor upload_f32(Backend& backend, Stream& stream, const std::vector<float>& values, Shape shape) {
  const Tensor out = backend.allocate(DType::kF32, std::move(shape));
  backend.upload(stream, std::as_bytes(std::span(values)), out);
  return out;
}

}  // namespace

BackwardPass::BackwardPass(const Model& model, Stream& stream, TrainedWeights& weights,
                           const HeadLimits& limits)
    : model_(model),
      stream_(stream),
      weights_(weights),
      backend_(model.backend()),
      ops_(backend_.training()),
      head_(std::make_unique<TrainingHead>(backend_, stream, weights, limits)) {
  const ModelConfig& config = model.config();
  std::vector<float> frequencies = rope_frequencies(config.rope, config.head_dim);
  for (float& f : frequencies) f = -f;
  negated_freq_ = upload_f32(backend_, stream, frequencies, {config.head_dim / 2});
}

BackwardPass::~BackwardPass() = default;

double BackwardPass::run(std::span<const std::span<const int32_t>> sequences,
                         const Targets& targets, bool backward) {
  std::vector<int64_t> lengths;
  std::vector<int32_t> tokens;
  for (const std::span<const int32_t> sequence : sequences) {
    lengths.push_back(static_cast<int64_t>(sequence.size()));
    tokens.insert(tokens.end(), sequence.begin(), sequence.end());
  }
  prepare(std::move(lengths));
  const int64_t n_layers = model_.config().n_layers;
  const auto n = static_cast<size_t>(n_rows_);
  DELTACOME_CHECK(n > 0 && targets.k > 0 && targets.log_p.size() == targets.ids.size());
  DELTACOME_CHECK(static_cast<int64_t>(targets.ids.size()) == n_rows_ * targets.k);
  DELTACOME_CHECK(targets.weights.empty() || targets.weights.size() == n);
  std::vector<float> weights(n, 1);  // of a mean over the positions
  if (!targets.weights.empty()) weights.assign(targets.weights.begin(), targets.weights.end());
  for (float& w : weights) w /= static_cast<float>(n);
  const TrainingHead::Targets on_device{
      ids_memory_.take(backend_, {n_rows_, targets.k}, DType::kI32),
      log_p_memory_.take(backend_, {n_rows_, targets.k}),
      weights_memory_.take(backend_, {n_rows_})};
  backend_.upload(stream_, std::as_bytes(targets.ids), on_device.ids);
  backend_.upload(stream_, std::as_bytes(targets.log_p), on_device.log_p);
  backend_.upload(stream_, std::as_bytes(std::span(weights)), on_device.weights);

  weights_.embed(stream_, tokens, hidden_.front());
  for (int64_t i = 0; i < n_layers; ++i) {
    run_inside(i);
    const Tensor& out = hidden_[static_cast<size_t>(i + 1)];
    project(layer_weights(i).down, a_.product, out);
    backend_.add(stream_, a_.middle, out);
  }
  const Weight& final_norm = model_.weights().final_norm;
  norm(final_norm, hidden_.back(), a_.d_normed);
  const double loss = head_->run(a_.d_normed, on_device, backward ? a_.d_hidden : Tensor{});
  if (!backward) return loss;
  norm_backward(final_norm, hidden_.back(), a_.d_hidden, a_.d_hidden);
  for (int64_t i = n_layers - 1; i >= 0; --i) {
    if (i != n_layers - 1) run_inside(i);  // the last layer's inside is still there
    mlp_backward(i);
    attention_backward(i);
  }
  return loss;
}

void BackwardPass::prepare(std::vector<int64_t> lengths) {
  if (lengths == lengths_ && base_rows_ != nullptr) return;
  base_rows_.reset();  // set last: nothing is prepared if an allocation fails
  lengths_ = std::move(lengths);
  n_rows_ = 0;
  for (const int64_t n : lengths_) n_rows_ += n;
  positions_ = plan_positions(backend_, lengths_);
  positions_backward_ = plan_positions(backend_, lengths_);
  ones_ = upload_f32(backend_, stream_, std::vector<float>(static_cast<size_t>(n_rows_), 1.0f),
                     {n_rows_, 1});
  take_buffers();
  const VariantSegment base{nullptr, n_rows_};
  base_rows_ = backend_.plan_variants({&base, 1});
}

void BackwardPass::take_buffers() {
  const ModelConfig& config = model_.config();
  hidden_.clear();  // they would keep memory that is to grow
  a_ = {};
  size_t next = 0;
  const auto rows = [&](int64_t width) {
    return scratch_.at(next++).take(backend_, {n_rows_, width});
  };
  const int64_t q_width = config.n_heads * config.head_dim;
  const int64_t kv_width = config.n_kv_heads * config.head_dim;
  const auto n_states = static_cast<size_t>(config.n_layers + 1);
  const Tensor states = rows(config.hidden_size * (config.n_layers + 1))
                            .reshaped({config.n_layers + 1, n_rows_, config.hidden_size});
  hidden_.resize(n_states);
  for (size_t i = 0; i < n_states; ++i) {
    hidden_[i] = states.slice(static_cast<int64_t>(i), 1).reshaped({n_rows_, config.hidden_size});
  }
  for (Tensor* x : {&a_.attention_in, &a_.middle, &a_.mlp_in, &a_.d_hidden, &a_.d_normed})
    *x = rows(config.hidden_size);
  for (Tensor* x : {&a_.q, &a_.mixed, &a_.dq}) *x = rows(q_width);
  for (Tensor* x : {&a_.k, &a_.v, &a_.dk, &a_.dv}) *x = rows(kv_width);
  for (Tensor* x : {&a_.gate, &a_.up, &a_.product}) *x = rows(config.intermediate_size);
  a_.q_raw = config.qk_norm ? rows(q_width) : a_.q;
  a_.k_raw = config.qk_norm ? rows(kv_width) : a_.k;
}

void BackwardPass::norm(const Weight& w, const Tensor& x, const Tensor& y) {
  backend_.rms_norm(stream_, *base_rows_, w.slot, x, weights_.norm(w), model_.config().rms_norm_eps,
                    y);
}

void BackwardPass::norm_backward(const Weight& w, const Tensor& x, const Tensor& dy,
                                 const Tensor& dx) {
  ops_.rms_norm_backward(stream_, x, weights_.norm(w), model_.config().rms_norm_eps, dy, dx,
                         weights_.norm_gradient(w));
}

void BackwardPass::project(const LinearWeights& w, const Tensor& x, const Tensor& y) {
  const Tensor bias = weights_.bias(w);
  if (!bias.empty())
    ops_.matmul(stream_, ones_, false, bias.reshaped({1, bias.size()}), false, 0, y);
  ops_.matmul(stream_, x, false, weights_.projection(w), true, bias.empty() ? 0.0f : 1.0f, y);
}

void BackwardPass::project_backward(const LinearWeights& w, const Tensor& x, const Tensor& dy,
                                    float beta, const Tensor& dx) {
  weights_.projection_gradient(w, x, dy);
  ops_.matmul(stream_, dy, false, weights_.projection(w), false, beta, dx);
}

AttentionShape BackwardPass::attention_shape(int64_t layer) const {
  const ModelConfig& config = model_.config();
  return {.n_heads = config.n_heads,
          .n_kv_heads = config.n_kv_heads,
          .head_dim = config.head_dim,
          .window = config.window(layer)};
}

void BackwardPass::run_inside(int64_t layer) {
  const LayerWeights& w = layer_weights(layer);
  const Tensor& hidden = hidden_[static_cast<size_t>(layer)];
  norm(w.input_norm, hidden, a_.attention_in);
  project(w.q, a_.attention_in, a_.q_raw);
  project(w.k, a_.attention_in, a_.k_raw);
  project(w.v, a_.attention_in, a_.v);
  if (model_.config().qk_norm) {
    norm(w.q_norm, a_.q_raw, a_.q);
    norm(w.k_norm, a_.k_raw, a_.k);
  }
  backend_.rope(stream_, *positions_, a_.q, model_.weights().inv_freq);
  backend_.rope(stream_, *positions_, a_.k, model_.weights().inv_freq);
  ops_.attention(stream_, lengths_, attention_shape(layer), a_.q, a_.k, a_.v, a_.mixed);
  project(w.o, a_.mixed, a_.middle);
  backend_.add(stream_, hidden, a_.middle);
  norm(w.post_norm, a_.middle, a_.mlp_in);
  project(w.gate, a_.mlp_in, a_.gate);
  project(w.up, a_.mlp_in, a_.up);
  backend_.silu_mul(stream_, a_.gate, a_.up, a_.product);
}

// Gradients take the place of activations that nobody needs any more.
void BackwardPass::mlp_backward(int64_t layer) {
  const LayerWeights& w = layer_weights(layer);
  project_backward(w.down, a_.product, a_.d_hidden, 0, a_.product);
  ops_.silu_mul_backward(stream_, a_.gate, a_.up, a_.product, a_.gate, a_.up);
  project_backward(w.up, a_.mlp_in, a_.up, 0, a_.d_normed);
  project_backward(w.gate, a_.mlp_in, a_.gate, 1, a_.d_normed);
  norm_backward(w.post_norm, a_.middle, a_.d_normed, a_.d_normed);
  backend_.add(stream_, a_.d_normed, a_.d_hidden);
}

void BackwardPass::attention_backward(int64_t layer) {
  const LayerWeights& w = layer_weights(layer);
  project_backward(w.o, a_.mixed, a_.d_hidden, 0, a_.mixed);
  ops_.attention_backward(stream_, lengths_, attention_shape(layer), a_.q, a_.k, a_.v, a_.mixed,
                          a_.dq, a_.dk, a_.dv);
  backend_.rope(stream_, *positions_backward_, a_.dq, negated_freq_);
  backend_.rope(stream_, *positions_backward_, a_.dk, negated_freq_);
  if (model_.config().qk_norm) {
    norm_backward(w.q_norm, a_.q_raw, a_.dq, a_.dq);
    norm_backward(w.k_norm, a_.k_raw, a_.dk, a_.dk);
  }
  project_backward(w.v, a_.attention_in, a_.dv, 0, a_.d_normed);
  project_backward(w.k, a_.attention_in, a_.dk, 1, a_.d_normed);
  project_backward(w.q, a_.attention_in, a_.dq, 1, a_.d_normed);
  norm_backward(w.input_norm, hidden_[static_cast<size_t>(layer)], a_.d_normed, a_.d_normed);
  backend_.add(stream_, a_.d_normed, a_.d_hidden);
}

}  // namespace deltacome
