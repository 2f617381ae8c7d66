// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "image/preprocess.h"
#include "io/model_config.h"
#include "io/safetensors.h"
#include "model/vision_tower.h"

namespace deltacome {

/// How a variant takes pictures: what is needed before it is loaded.
struct PictureFormat {
  VisionConfig config;
  ImagePreprocessing preprocessing;
};

/// A vision tower's weights on the host. Immutable.
struct VisionTensors {
  ModelConfig config;
  Checkpoint tensors;
  std::string hash;  // of the tensors' contents
};

/// What a variant sees pictures with.
struct VariantVision {
  PictureFormat format;
  std::shared_ptr<const VisionTensors> tensors;  // null: it takes no pictures
};

/// Variants whose towers have the same weights and shape share one. Thread-safe.
class VisionCache {
 public:
  /// The tensors that expected_vision_tensors(config) lists, of `tensors`. Throws kNotFound,
  /// kMismatch.
  std::shared_ptr<const VisionTensors> share(const Checkpoint& tensors, const ModelConfig& config);

 private:
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const VisionTensors>> known_;  // by hash
};

/// Towers on a backend, made when they are first asked for (the backend's rule: by the engine
/// thread), kept as long as a variant has their weights.
class Towers {
 public:
  explicit Towers(Backend& backend) : backend_(backend) {}
  /// Throws as VisionTower.
  std::shared_ptr<const VisionTower> of(const std::shared_ptr<const VisionTensors>& tensors);

 private:
  struct Entry {
    std::weak_ptr<const VisionTensors> tensors;
    std::shared_ptr<const VisionTower> tower;
  };
  Backend& backend_;
  std::map<const VisionTensors*, Entry> towers_;
};

}  // namespace deltacome
