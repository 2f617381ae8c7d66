// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "deltacome/request.h"
#include "engine/vision_assets.h"

namespace deltacome {

/// The pictures of a request on their way to the model, shared by its answers.
struct RequestPictures {
  std::vector<std::vector<float>> pixels;  // a picture each, as its tower takes it
  std::vector<int32_t> prompt;             // with image tokens as given rows (model/given_rows.h)
  // Of the engine thread:
  std::shared_ptr<const VisionTower> tower;  // set when the request is bound
  Tensor given;                              // features of all pictures, once a step needs them

  bool empty() const noexcept { return pixels.empty(); }
};

/// Decodes and prepares request.images (which it clears), repeats each image token of the prompt
/// for the features of its picture, unless that is done, and adds the pictures' hashes to
/// extra_hash. On the submitting thread. Throws kInvalidArgument for another number of image
/// tokens, and as decode_image().
RequestPictures take_pictures(EngineRequest& request, const PictureFormat& format);

/// Computes `given` if it is not there. Throws kMismatch if the variant that the request is bound
/// to takes other pictures than the one it was prepared for.
void compute_features(RequestPictures& pictures, Backend& backend, Stream& stream);

}  // namespace deltacome
