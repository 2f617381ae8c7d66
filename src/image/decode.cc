// SPDX-License-Identifier: Apache-2.0
#include "image/decode.h"

#include <cstring>
#include <string_view>

#include "core/check.h"
#include "image/formats.h"

namespace deltacome {
namespace {

bool begins_with(image::Bytes file, std::string_view magic, size_t at = 0) {
  return file.size() >= at + magic.size() &&
         std::memcmp(file.data() + at, magic.data(), magic.size()) == 0;
}

}  // namespace

Image image::allocate_image(const char* format, int64_t width, int64_t height,
                            const ImageLimits& limits) {
  if (width <= 0 || height <= 0) {
    fail(ErrorCode::kCorrupt, "{} picture: its size is {} x {} pixels", format, width, height);
  }
  if (height > limits.max_pixels / width) {
    fail(ErrorCode::kInvalidArgument,
         "{} picture: it would become {} x {} pixels, expected at most {} in all", format, width,
         height, limits.max_pixels);
  }
  return {width, height, std::vector<uint8_t>(static_cast<size_t>(3 * width * height))};
}

Image decode_image(std::span<const std::byte> file, const ImageLimits& limits) {
  if (file.size() > limits.max_bytes) {
    fail(ErrorCode::kInvalidArgument, "picture: the file has {} bytes, expected at most {}",
         file.size(), limits.max_bytes);
  }
  if (begins_with(file, "\x89PNG\r\n\x1a\n")) return image::decode_png(file, limits);
  if (begins_with(file, "\xff\xd8\xff")) return image::decode_jpeg(file, limits);
  if (begins_with(file, "RIFF") && begins_with(file, "WEBP", 8))
    return image::decode_webp(file, limits);
  if (file.empty()) fail(ErrorCode::kCorrupt, "picture: the file is empty");
  fail(ErrorCode::kUnsupported, "picture: the file is none of PNG, JPEG, WebP by its first bytes");
}

}  // namespace deltacome
