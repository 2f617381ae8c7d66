// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "backend/vision_ops.h"
#include "io/model_config.h"
#include "io/safetensors.h"
#include "model/weights.h"

namespace deltacome {

/// A CLIP vision tower with its projector on a backend: what a picture is to the language model.
/// Immutable; one thread at a time (the backend's rule). Ref: Radford et al., arXiv:2103.00020; Liu
/// et al., LLaVA-1.5, arXiv:2310.03744.
class VisionTower {
 public:
  /// `config.vision` must be there, and `tensors` hold what expected_vision_tensors() lists. Throws
  /// kNotFound, kMismatch, kUnsupported naming the tensor; kUnsupported if the backend has no
  /// vision ops.
  VisionTower(Backend& backend, const Checkpoint& tensors, const ModelConfig& config);

  /// pixels [3, image_size, image_size] f32, as preprocess() gives them -> [n_features,
  /// hidden_size of the language model] f32.
  Tensor features(Stream& stream, std::span<const float> pixels) const;

  const VisionConfig& config() const noexcept { return config_; }
  int64_t bytes() const noexcept { return bytes_; }  // of the weights

 private:
  struct Norm {
    Tensor weight, bias;  // [hidden]
  };
  struct Linear {
    Tensor weight;  // [n_out, n_in]
    Tensor bias;    // [n_out] or empty
  };
  struct Layer {
    Norm norm1, norm2;
    Linear q, k, v, out, fc1, fc2;
  };
  class Reader;
  struct Run;

  void run_layer(const Run& run, const Layer& layer, const Tensor& hidden) const;

  Backend& backend_;
  VisionOps& ops_;
  VisionConfig config_;
  int64_t bytes_ = 0;
  Tensor patches_;    // [hidden, 3 * patch_size^2]: the convolution as a matrix
  Tensor positions_;  // [1 + n_patches, hidden] f32, the class token's embedding added to its own
  Norm pre_norm_;
  std::vector<Layer> layers_;  // those that run
  std::vector<Linear> projector_;
};

}  // namespace deltacome
