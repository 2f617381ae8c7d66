// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>

#include "io/vision_config.h"

namespace deltacome {

/// What CLIPImageProcessor does with a picture, in this order.
struct ImagePreprocessing {
  bool pad_to_square = false;   // with the mean colour; the authors' form of LLaVA-1.5 asks for it
  bool resize = true;           // bicubic
  int64_t shortest_edge = 224;  // the shorter side becomes this; 0: both sides are given
  int64_t height = 0, width = 0;  // if shortest_edge is 0
  bool center_crop = true;
  int64_t crop_height = 224, crop_width = 224;  // zeros beside a picture that is smaller
  double rescale = 1.0 / 255;                   // 1: off
  std::array<double, 3> mean{0.48145466, 0.4578275, 0.40821073};  // 0: off
  std::array<double, 3> std{0.26862954, 0.26130258, 0.27577711};  // 1: off
};

/// Reads preprocessor_config.json of a model directory, or "image_processor" of its
/// processor_config.json; without either they are CLIP's numbers at the tower's size. Throws
/// kCorrupt by field, kUnsupported for another filter, kMismatch if the result is not the tower's
/// square.
ImagePreprocessing read_image_preprocessing(const std::filesystem::path& directory,
                                            const VisionConfig& vision);

}  // namespace deltacome
