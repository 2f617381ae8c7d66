// SPDX-License-Identifier: Apache-2.0
#include "image/preprocess.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "image/resize.h"
#include "io/files.h"

namespace deltacome {
namespace {

constexpr int64_t kMaxPadded = 100'000'000;  // pixels of a square: 300 MB

int64_t floor_half(int64_t x) {
  return x >= 0 ? x / 2 : -((1 - x) / 2);
}

/// The picture in the middle of a square of one colour.
Image padded(const Image& image, const std::array<double, 3>& colour) {
  const int64_t side = std::max(image.width, image.height);
  if (side * side > kMaxPadded) {
    fail(ErrorCode::kInvalidArgument,
         "picture: as a square it would be {} x {} pixels, expected at most {} in all", side, side,
         kMaxPadded);
  }
  Image out{side, side, std::vector<uint8_t>(static_cast<size_t>(3 * side * side))};
  for (size_t i = 0; i < out.rgb.size(); ++i)
    out.rgb[i] = static_cast<uint8_t>(std::clamp(colour[i % 3] * 255, 0.0, 255.0));
  const int64_t left = (side - image.width) / 2, top = (side - image.height) / 2;
  for (int64_t y = 0; y < image.height; ++y) {
    std::copy_n(image.rgb.data() + 3 * y * image.width, 3 * image.width,
                out.rgb.data() + 3 * ((top + y) * side + left));
  }
  return out;
}

/// Width and height that the picture is resized to.
std::pair<int64_t, int64_t> resized(const Image& image, const ImagePreprocessing& how) {
  if (!how.resize) return {image.width, image.height};
  if (how.shortest_edge == 0) return {how.width, how.height};
  const int64_t edge = how.shortest_edge;
  if (image.width <= image.height) return {edge, edge * image.height / image.width};
  return {edge * image.width / image.height, edge};
}

Image cut(const Image& image, const Window& part) {
  Image out{part.width, part.height, {}};
  for (int64_t y = part.top; y < part.top + part.height; ++y) {
    const auto from = image.rgb.begin() + 3 * (y * image.width + part.left);
    out.rgb.insert(out.rgb.end(), from, from + 3 * part.width);
  }
  return out;
}

}  // namespace

std::vector<float> preprocess(const Image& original, const ImagePreprocessing& how) {
  const bool pad = how.pad_to_square && original.width != original.height;
  const Image square = pad ? padded(original, how.mean) : Image{};
  const Image& image = pad ? square : original;
  const auto [width, height] = resized(image, how);
  // The crop's place in the resized picture; parts of it may be outside.
  const int64_t out_width = how.center_crop ? how.crop_width : width;
  const int64_t out_height = how.center_crop ? how.crop_height : height;
  const int64_t left = floor_half(width - out_width), top = floor_half(height - out_height);
  Window inside{.left = std::max<int64_t>(left, 0), .top = std::max<int64_t>(top, 0)};
  inside.width = std::min(left + out_width, width) - inside.left;
  inside.height = std::min(top + out_height, height) - inside.top;
  const bool same_size = width == image.width && height == image.height;
  const Image part = same_size ? cut(image, inside) : resize_bicubic(image, width, height, inside);

  const auto outside = [&](size_t channel) {
    return static_cast<float>(-how.mean[channel] / how.std[channel]);
  };
  std::vector<float> out(static_cast<size_t>(3 * out_width * out_height));
  for (size_t channel = 0; channel < 3; ++channel) {
    float* plane = out.data() + static_cast<int64_t>(channel) * out_width * out_height;
    std::fill_n(plane, out_width * out_height, outside(channel));
    for (int64_t y = 0; y < part.height; ++y) {
      float* to = plane + (y + inside.top - top) * out_width + inside.left - left;
      const uint8_t* from = part.rgb.data() + 3 * y * part.width + channel;
      for (int64_t x = 0; x < part.width; ++x, from += 3)
        to[x] = static_cast<float>((*from * how.rescale - how.mean[channel]) / how.std[channel]);
    }
  }
  return out;
}

Picture read_picture(std::span<const std::byte> file, const ImagePreprocessing& how,
                     const ImageLimits& limits) {
  Picture out;
  out.pixels = preprocess(decode_image(file, limits), how);
  out.hash = sha256_hex(std::as_bytes(std::span(out.pixels)));
  return out;
}

}  // namespace deltacome
