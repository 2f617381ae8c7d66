// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "image/decode.h"

namespace deltacome {

/// Part of a picture, in pixels.
struct Window {
  int64_t left = 0, top = 0, width = 0, height = 0;
};

/// The window `part` of what `image` becomes when it is resized to width x height, as Pillow's
/// resize(BICUBIC) does it: a bicubic filter (a = -1/2), widened by the factor of a reduction, in
/// 22-bit fixed point, first along rows, then along columns, rounded to 8 bits after either. Only
/// the window is computed, so the work is bounded by it and by `image`, whatever the size.
Image resize_bicubic(const Image& image, int64_t width, int64_t height, const Window& part);

}  // namespace deltacome
