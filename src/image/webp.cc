// SPDX-License-Identifier: Apache-2.0
#include <webp/decode.h>

#include "core/check.h"
#include "image/formats.h"

namespace deltacome::image {

Image decode_webp(Bytes file, const ImageLimits& limits) {
  const auto* data = reinterpret_cast<const uint8_t*>(file.data());
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(data, file.size(), &features) != VP8_STATUS_OK)
    fail(ErrorCode::kCorrupt, "WebP picture: its header cannot be read");
  if (features.has_animation)
    fail(ErrorCode::kUnsupported, "WebP picture: it is an animation, expected a single picture");
  Image image = allocate_image("WebP", features.width, features.height, limits);
  const auto stride = static_cast<int>(3 * image.width);
  if (WebPDecodeRGBInto(data, file.size(), image.rgb.data(), image.rgb.size(), stride) == nullptr)
    fail(ErrorCode::kCorrupt, "WebP picture: its data is broken or cut off");
  return image;
}

}  // namespace deltacome::image
