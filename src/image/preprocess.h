// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "image/decode.h"
#include "io/image_config.h"

namespace deltacome {

/// What a vision tower takes: [3, height, width] f32.
std::vector<float> preprocess(const Image& image, const ImagePreprocessing& how);

/// A picture on its way to the model.
struct Picture {
  std::vector<float> pixels;  // [3, side, side]
  std::string hash;           // SHA-256 of the pixels: what of the picture the model sees
};

/// A file of a picture (PNG, JPEG, WebP) as the model takes it. Throws as decode_image().
Picture read_picture(std::span<const std::byte> file, const ImagePreprocessing& how,
                     const ImageLimits& limits = {});

}  // namespace deltacome
