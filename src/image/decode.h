// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace deltacome {

/// A picture: rgb [height, width, 3], 8 bits a channel.
struct Image {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> rgb;
};

/// What a picture may be before it is decoded: its header says how large it becomes.
struct ImageLimits {
  size_t max_bytes = size_t{32} << 20;       // of the file
  int64_t max_pixels = int64_t{40'000'000};  // 120 MB decoded
};

/// Decodes a PNG, JPEG or WebP file as Pillow's convert("RGB") does: an alpha channel is dropped,
/// grey and palettes are expanded, 16 bits become 8, of a gamma or a colour profile nothing is
/// known. Throws kUnsupported for other formats, animations and CMYK, kInvalidArgument for a
/// picture beyond the limits, kCorrupt for a broken one. Thread-safe.
Image decode_image(std::span<const std::byte> file, const ImageLimits& limits = {});

}  // namespace deltacome
