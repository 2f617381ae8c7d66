// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "image/formats.h"

namespace deltacome::image {

Image decode_webp(Bytes /*file*/, const ImageLimits& /*limits*/) {
  fail(ErrorCode::kUnsupported,
       "WebP picture: this build has no libwebp; give PNG or JPEG, or build with libwebp-dev");
}

}  // namespace deltacome::image
