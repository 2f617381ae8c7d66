// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "image/decode.h"

namespace deltacome::image {

using Bytes = std::span<const std::byte>;

// Each is called for a file with its format's first bytes; see decode_image().
Image decode_png(Bytes file, const ImageLimits& limits);
Image decode_jpeg(Bytes file, const ImageLimits& limits);
Image decode_webp(Bytes file, const ImageLimits& limits);

/// An image of this size, its pixels to be filled in. Throws kInvalidArgument beyond the limits.
Image allocate_image(const char* format, int64_t width, int64_t height, const ImageLimits& limits);

}  // namespace deltacome::image
