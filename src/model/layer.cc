// SPDX-License-Identifier: Apache-2.0
#include "model/layer.h"

#include <array>

namespace deltacome {
namespace {

void norm(const LayerRun& run, const Weight& weight, const Tensor& x, const Tensor& y) {
  run.backend.rms_norm(run.stream, run.variants, weight.slot, x, weight.tensor,
                       run.config.rms_norm_eps, y);
}

/// out = W x.
void project(const LayerRun& run, const LinearWeights& weights, const Tensor& x,
             const Tensor& out) {
  const std::array targets{target(weights, out)};
  run.backend.linear(run.stream, run.variants, x, targets);
}

/// hidden += work.out, work.normed = norm(hidden).
void add_and_norm(const LayerRun& run, const Weight& weight, const Workspace& work,
                  const Tensor& hidden) {
  run.backend.add_rms_norm(run.stream, run.variants, weight.slot, work.out, hidden, weight.tensor,
                           run.config.rms_norm_eps, work.normed);
}

}  // namespace

Workspace::Workspace(Backend& backend, const ModelConfig& config, int64_t n_rows) {
  const auto rows = [&](int64_t width) { return backend.allocate(DType::kF32, {n_rows, width}); };
  normed = rows(config.hidden_size);
  q = rows(config.n_heads * config.head_dim);
  k = rows(config.n_kv_heads * config.head_dim);
  v = rows(config.n_kv_heads * config.head_dim);
  mixed = rows(config.n_heads * config.head_dim);
  gate = rows(config.intermediate_size);
  up = rows(config.intermediate_size);
  out = rows(config.hidden_size);
}

Workspace Workspace::first_rows(int64_t n_rows) const {
  Workspace part = *this;
  for (Tensor* tensor :
       {&part.normed, &part.q, &part.k, &part.v, &part.mixed, &part.gate, &part.up, &part.out}) {
    *tensor = tensor->slice(0, n_rows);
  }
  return part;
}

LinearTarget target(const LinearWeights& weights, const Tensor& y) {
  return {.slot = weights.weight.slot,
          .weight = weights.weight.tensor,
          .bias_slot = weights.bias.slot,
          .bias = weights.bias.tensor,
          .y = y};
}

void attention_input(const LayerRun& run, const LayerWeights& layer, const Tensor& hidden,
                     const Workspace& work) {
  norm(run, layer.input_norm, hidden, work.normed);
}

void attention_mix(const LayerRun& run, const LayerWeights& layer, int64_t layer_index,
                   const Tensor& k_cache, const Tensor& v_cache, const Workspace& work) {
  const std::array targets{target(layer.q, work.q), target(layer.k, work.k),
                           target(layer.v, work.v)};
  run.backend.linear(run.stream, run.variants, work.normed, targets);
  if (run.config.qk_norm) {
    norm(run, layer.q_norm, work.q, work.q);
    norm(run, layer.k_norm, work.k, work.k);
  }
  run.backend.rope_and_store(run.stream, run.attention, work.q, work.k, work.v, run.inv_freq,
                             k_cache, v_cache);
  const AttentionShape shape{.n_heads = run.config.n_heads,
                             .n_kv_heads = run.config.n_kv_heads,
                             .head_dim = run.config.head_dim,
                             .window = run.config.window(layer_index)};
  run.backend.attention(run.stream, run.attention, shape, work.q, k_cache, v_cache, work.mixed);
}

void attention_output(const LayerRun& run, const LayerWeights& layer, const Workspace& work,
                      const Tensor& hidden) {
  project(run, layer.o, work.mixed, work.out);
  run.backend.add(run.stream, work.out, hidden);
}

void attention_output_and_mlp_input(const LayerRun& run, const LayerWeights& layer,
                                    const Workspace& work, const Tensor& hidden) {
  project(run, layer.o, work.mixed, work.out);
  add_and_norm(run, layer.post_norm, work, hidden);
}

void mlp_input(const LayerRun& run, const LayerWeights& layer, const Tensor& hidden,
               const Workspace& work) {
  norm(run, layer.post_norm, hidden, work.normed);
}

void mlp_mix(const LayerRun& run, const LayerWeights& layer, const Workspace& work) {
  const std::array targets{target(layer.gate, work.gate), target(layer.up, work.up)};
  run.backend.linear(run.stream, run.variants, work.normed, targets);
  run.backend.silu_mul(run.stream, work.gate, work.up, work.gate);
}

void mlp_output(const LayerRun& run, const LayerWeights& layer, const Workspace& work,
                const Tensor& hidden) {
  project(run, layer.down, work.gate, work.out);
  run.backend.add(run.stream, work.out, hidden);
}

void mlp_output_and_attention_input(const LayerRun& run, const LayerWeights& layer,
                                    const LayerWeights& next, const Workspace& work,
                                    const Tensor& hidden) {
  project(run, layer.down, work.gate, work.out);
  add_and_norm(run, next.input_norm, work, hidden);
}

}  // namespace deltacome
