// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <vector>

#include "backend/backend.h"
#include "io/model_config.h"
#include "io/safetensors.h"

namespace deltacome {

/// A tensor of the base in a backend's memory and its slot: its index in expected_tensors().
struct Weight {
  int slot = -1;
  Tensor tensor;  // empty if the architecture does not have it
};

struct LinearWeights {
  Weight weight;  // [n_out, n_in]
  Weight bias;    // [n_out] or empty
};

struct LayerWeights {
  Weight input_norm, post_norm;  // [hidden]
  Weight q_norm, k_norm;         // [head_dim] or empty
  LinearWeights q, k, v, o, gate, up, down;
};

struct ModelWeights {
  Weight embedding;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  Weight final_norm;  // [hidden]
  Weight head;        // [vocab, hidden]; that of the embedding if tied
  Tensor inv_freq;    // [head_dim / 2] f32
  int64_t bytes = 0;  // of all tensors as they are held
  /// Of quantized weights that the backend holds in another layout: the largest
  /// ||held - W||_F / ||W||_F; 0 = all are the checkpoint's values.
  double quantized_error = 0;
};

/// Takes over every tensor that the configuration expects. Throws kMismatch naming the tensor, what
/// it has and what was expected; kNotFound for a missing one. Tensors that nobody expects are left
/// alone. Projections and the head are held in `format`; those that the checkpoint holds as codes
/// stay in low precision with kStored.
ModelWeights load_weights(Backend& backend, const Checkpoint& checkpoint, const ModelConfig& config,
                          WeightFormat format = WeightFormat::kStored);

/// The projections of all layers by slot.
std::map<int, Tensor> projections_of(const ModelWeights& weights);

/// Throws as load_weights(), without loading: `checkpoint` holds what `expected` lists.
void check_tensors(const Checkpoint& checkpoint, const std::vector<ExpectedTensor>& expected);

}  // namespace deltacome
