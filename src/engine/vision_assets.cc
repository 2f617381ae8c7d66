// SPDX-License-Identifier: Apache-2.0
#include "engine/vision_assets.h"

#include <utility>

namespace deltacome {
namespace {

/// What the tensors' bytes do not say.
std::string form_of(const VisionConfig& c) {
  return fmt::format("{} {} {} {} {} {} {} {} {}", c.n_heads, c.image_size, c.patch_size,
                     c.layer_norm_eps, static_cast<int>(c.activation), c.feature_layers,
                     c.class_feature, c.projector_layers, static_cast<int>(c.projector_activation));
}

}  // namespace

std::shared_ptr<const VisionTensors> VisionCache::share(const Checkpoint& tensors,
                                                        const ModelConfig& config) {
  const std::vector<ExpectedTensor> expected = expected_vision_tensors(config);
  check_tensors(tensors, expected);
  std::map<std::string, HostTensor> own;
  for (const ExpectedTensor& tensor : expected) own[tensor.name] = tensors.at(tensor.name);
  const std::string hash = content_hash(own);
  const std::lock_guard lock(mutex_);
  std::erase_if(known_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<const VisionTensors>& place = known_[hash + form_of(*config.vision)];
  if (auto known = place.lock()) return known;
  auto made = std::make_shared<const VisionTensors>(
      VisionTensors{config, Checkpoint::of(std::move(own), tensors.directory()), hash});
  place = made;
  return made;
}

std::shared_ptr<const VisionTower> Towers::of(const std::shared_ptr<const VisionTensors>& tensors) {
  std::erase_if(towers_, [](const auto& entry) { return entry.second.tensors.expired(); });
  Entry& entry = towers_[tensors.get()];
  if (entry.tower == nullptr) {
    entry.tower = std::make_shared<VisionTower>(backend_, tensors->tensors, tensors->config);
    entry.tensors = tensors;
  }
  return entry.tower;
}

}  // namespace deltacome
