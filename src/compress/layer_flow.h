// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/compression_ops.h"
#include "model/kv_cache.h"
#include "model/layer.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace deltacome {

/// The four inputs of a layer's projections, in the order of the forward pass.
enum class LayerInput { kQkv, kO, kGateUp, kDown };

/// Calibration activations on their way through the layers: the base's weights with the delta coded
/// so far, exactly as they will run. Holds one activation of all tokens, and between statistics(kO)
/// and statistics(kGateUp) a second one; everything else is a chunk's, and is there only during a
/// call. For each layer: statistics(kQkv), code q k v into `variant`, statistics(kO), code o,
/// ..., finish_layer().
class LayerFlow {
 public:
  /// Embeds `sequences`; the embedding's delta must be in `variant` by then. `given`: rows that ids
  /// below 0 stand for.
  LayerFlow(const Model& model, Stream& stream, std::shared_ptr<const DeviceVariant> variant,
            std::vector<std::vector<TokenId>> sequences, const Tensor& given = {});

  /// Sum of x x^T over all tokens, x the input of the named projections of `layer`. f64 [n_in,
  /// n_in]. Stages of a layer in order; each runs what lies between it and the stage before.
  Tensor statistics(int64_t layer, LayerInput input);
  /// Runs what is left of `layer`, from any stage.
  void finish_layer(int64_t layer);

 private:
  struct Chunk {
    std::unique_ptr<AttentionPlan> attention;
    std::unique_ptr<VariantPlan> variants;
    int64_t first_row = 0, n_rows = 0;
  };
  /// What a stage sees of a chunk.
  struct Rows {
    Workspace work;
    Tensor hidden, mixed;  // of all tokens, the chunk's part; mixed may be empty
    const KvCache& cache;  // of one layer
  };
  template <class Body>
  void for_each_chunk(const Body& body);
  const LayerWeights& weights(int64_t layer) const {
    return model_.weights().layers[static_cast<size_t>(layer)];
  }

  const Model& model_;
  Stream& stream_;
  std::vector<Chunk> chunks_;
  int64_t chunk_rows_ = 0, chunk_blocks_ = 0;  // of the largest chunk
  Tensor hidden_;                              // [n_tokens, hidden_size]: the residual stream
  Tensor mixed_;       // [n_tokens, n_heads * head_dim]: attention's output, from kO to kGateUp
  int64_t stage_ = 0;  // stages of the current layer that have run
};

}  // namespace deltacome
