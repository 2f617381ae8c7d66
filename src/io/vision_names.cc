// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <string_view>

#include "io/vision_config.h"

namespace deltacome {
namespace {

struct Prefix {
  std::string_view stored, canonical;
};

// Longer ones first where one begins with another.
constexpr std::array<Prefix, 12> kPrefixes{{
    {"language_model.model.", "model."},
    {"language_model.lm_head.", "lm_head."},
    {"model.language_model.", "model."},
    {"vision_tower.vision_model.", "vision_tower."},
    {"model.vision_tower.vision_tower.vision_model.", "vision_tower."},
    {"model.vision_tower.vision_tower.", "vision_tower."},
    {"model.vision_tower.vision_model.", "vision_tower."},
    {"model.vision_tower.", "vision_tower."},
    {"model.multi_modal_projector.", "multi_modal_projector."},
    {"model.mm_projector.0.", "multi_modal_projector.linear_1."},
    {"model.mm_projector.2.", "multi_modal_projector.linear_2."},
    {"model.mm_projector.", "multi_modal_projector.linear_1."},
}};

}  // namespace

bool is_vision_tensor(const std::string& name) {
  return name.starts_with("vision_tower.") || name.starts_with("multi_modal_projector.");
}

std::string canonical_tensor_name(const std::string& name) {
  for (const Prefix& prefix : kPrefixes) {
    if (!name.starts_with(prefix.stored)) continue;
    return std::string(prefix.canonical) + name.substr(prefix.stored.size());
  }
  return name;
}

std::string stored_vision_model_name(const std::string& canonical) {
  constexpr std::string_view kTower = "vision_tower.";
  if (canonical.starts_with(kTower)) {
    return "vision_tower.vision_model." + canonical.substr(kTower.size());
  }
  return is_vision_tensor(canonical) ? canonical : "language_model." + canonical;
}

}  // namespace deltacome
