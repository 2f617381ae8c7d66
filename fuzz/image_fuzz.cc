// SPDX-License-Identifier: Apache-2.0
// The input is a picture's file; a data URI if it begins like one.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "deltacome/error.h"
#include "image/data_uri.h"
#include "image/preprocess.h"

using namespace deltacome;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const ImageLimits limits{.max_bytes = 1 << 16, .max_pixels = 1 << 16};
  const ImagePreprocessing how{.shortest_edge = 16, .crop_height = 16, .crop_width = 16};
  try {
    std::string file(reinterpret_cast<const char*>(data), size);
    if (file.starts_with("data:")) file = decode_data_uri(file);
    const Image image = decode_image(std::as_bytes(std::span(file)), limits);
    if (image.width * image.height > limits.max_pixels ||
        static_cast<int64_t>(image.rgb.size()) != 3 * image.width * image.height ||
        preprocess(image, how).size() != 3 * 16 * 16) {
      std::abort();
    }
  } catch (const Error&) {
  }
  return 0;
}
