// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "core/gelu.h"

namespace deltacome {

/// A CLIP vision tower and the projector that turns its features into embeddings of the language
/// model (the LLaVA form). Pictures have three channels.
struct VisionConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t n_layers = 0;
  int64_t n_heads = 0;
  int64_t image_size = 0;  // pixels of a side
  int64_t patch_size = 0;  // pixels of a side of a patch
  double layer_norm_eps = 1e-5;
  Gelu activation = Gelu::kQuick;
  int64_t feature_layers = 0;  // layers that run: their output are the features
  bool class_feature = false;  // the class token's feature is kept ("full")
  int projector_layers = 2;    // linear layers of the projector
  bool projector_bias = true;
  Gelu projector_activation = Gelu::kExact;
  int64_t image_token_id = 0;  // stands for one feature in a prompt

  int64_t n_patches() const noexcept {
    return (image_size / patch_size) * (image_size / patch_size);
  }
  /// Rows of the language model that a picture takes.
  int64_t n_features() const noexcept { return n_patches() + (class_feature ? 1 : 0); }
};

/// True for the names of a vision tower's and a projector's tensors, as Checkpoint has them.
bool is_vision_tensor(const std::string& name);

/// A tensor's name in any layout of the LLaVA form, as Checkpoint has it: the language model's as
/// if it were alone ("model.layers.0...", "lm_head.weight"), "vision_tower.*" and
/// "multi_modal_projector.*". Layouts: transformers before 4.52 ("language_model.model.*",
/// "vision_tower.vision_model.*"), since then ("model.language_model.*", "model.vision_tower.*"),
/// and the authors' own ("model.mm_projector.0.*", "model.vision_tower.vision_tower.*").
std::string canonical_tensor_name(const std::string& name);

/// The reverse, in the layout of transformers before 4.52, which all its versions read.
std::string stored_vision_model_name(const std::string& canonical);

}  // namespace deltacome
