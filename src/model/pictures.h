// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "image/preprocess.h"
#include "io/vision_config.h"
#include "model/given_rows.h"
#include "model/vision_tower.h"

namespace deltacome {

/// `ids` with each image token repeated for the features of its picture, as LlavaProcessor does it.
std::vector<int32_t> expand_image_tokens(std::span<const int32_t> ids, const VisionConfig& vision);

/// Expanded `ids` with their image tokens as given rows: those of picture i are rows [i, i + 1) *
/// n_features of a table, from first_row on. Throws kInvalidArgument unless there are n_features
/// tokens for each of n_pictures.
std::vector<int32_t> place_pictures(std::span<const int32_t> ids, const VisionConfig& vision,
                                    int64_t n_pictures, int64_t first_row = 0);

/// What sees pictures: a variant's tower, and how it wants them.
struct PictureReader {
  std::shared_ptr<const VisionTower> tower;  // null: the model takes no pictures
  ImagePreprocessing preprocessing;

  /// The tower of a model directory whose tensors are in `tensors`; none without vision. Throws as
  /// read_image_preprocessing() and VisionTower.
  static PictureReader open(Backend& backend, const Checkpoint& tensors, const ModelConfig& config,
                            const std::filesystem::path& directory);

  /// Features of picture files, one table [n * n_features, hidden]; empty without any. Throws
  /// kInvalidArgument if the model takes none, and as decode_image().
  Tensor features(Backend& backend, Stream& stream, std::span<const std::string> files) const;
};

}  // namespace deltacome
