// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <filesystem>
#include <span>
#include <string>

#include "image/decode.h"
#include "io/files.h"

namespace deltacome::test {

inline std::filesystem::path image_dir() {
  return std::filesystem::path(DELTACOME_SOURCE_DIR) / "tests" / "data" / "images";
}

inline std::string image_file(const std::string& name) {
  return read_text_file(image_dir() / name);
}

inline Image decode(const std::string& file, const ImageLimits& limits = {}) {
  return decode_image(std::as_bytes(std::span(file)), limits);
}

/// A file "width height\n" and RGB, as tools/make_image_goldens.py writes it.
inline Image read_rgb(const std::string& name) {
  const std::string file = image_file(name);
  Image image;
  int begin = 0;
  std::sscanf(file.c_str(), "%ld %ld\n%n", &image.width, &image.height, &begin);
  begin = static_cast<int>(file.find('\n')) + 1;  // %n would swallow white pixels too
  image.rgb.assign(file.begin() + begin, file.end());
  return image;
}

}  // namespace deltacome::test
