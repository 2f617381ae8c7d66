// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/backend.h"
#include "io/model_config.h"
#include "model/weights.h"

namespace deltacome {

/// Activations of one batch, allocated once and reused by every layer. Rows are tokens, f32.
struct Workspace {
  Workspace(Backend& backend, const ModelConfig& config, int64_t n_rows);
  Workspace first_rows(int64_t n_rows) const;  // the same memory for a smaller batch
  Tensor normed;                               // [n, hidden]
  Tensor q, k, v;                              // [n, heads * head_dim]
  Tensor mixed;                                // [n, n_heads * head_dim]: attention's output
  Tensor gate, up;                             // [n, intermediate]
  Tensor out;  // [n, hidden]: what o or down add to the residual stream
};

/// What every piece of a layer needs to run on a batch.
struct LayerRun {
  Backend& backend;
  Stream& stream;
  const ModelConfig& config;
  const VariantPlan& variants;
  const AttentionPlan& attention;
  const Tensor& inv_freq;  // [head_dim / 2] f32
};

// One transformer layer in the pieces between which compression looks at activations: each ends
// where a projection's input is complete. hidden [n, hidden_size] is the residual stream.

/// work.normed = the input of q, k and v.
void attention_input(const LayerRun& run, const LayerWeights& layer, const Tensor& hidden,
                     const Workspace& work);
/// work.mixed = the input of o, from work.normed; appends to the layer's cache.
void attention_mix(const LayerRun& run, const LayerWeights& layer, int64_t layer_index,
                   const Tensor& k_cache, const Tensor& v_cache, const Workspace& work);
/// hidden += o(work.mixed).
void attention_output(const LayerRun& run, const LayerWeights& layer, const Workspace& work,
                      const Tensor& hidden);
/// attention_output(), then mlp_input().
void attention_output_and_mlp_input(const LayerRun& run, const LayerWeights& layer,
                                    const Workspace& work, const Tensor& hidden);
/// work.normed = the input of gate and up.
void mlp_input(const LayerRun& run, const LayerWeights& layer, const Tensor& hidden,
               const Workspace& work);
/// work.gate = silu(gate) * up, the input of down, from work.normed.
void mlp_mix(const LayerRun& run, const LayerWeights& layer, const Workspace& work);
/// hidden += down(work.gate).
void mlp_output(const LayerRun& run, const LayerWeights& layer, const Workspace& work,
                const Tensor& hidden);

/// mlp_output(), then attention_input() of the next layer.
void mlp_output_and_attention_input(const LayerRun& run, const LayerWeights& layer,
                                    const LayerWeights& next, const Workspace& work,
                                    const Tensor& hidden);

/// A target of Backend::linear() for these weights.
LinearTarget target(const LinearWeights& weights, const Tensor& y);

}  // namespace deltacome
