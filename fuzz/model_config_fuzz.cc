// SPDX-License-Identifier: Apache-2.0
// The input is config.json, then optionally a zero byte and generation_config.json.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "deltacome/error.h"
#include "io/model_config.h"

using namespace deltacome;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t zero = text.find('\0');
  const std::string_view generation =
      zero == std::string_view::npos ? std::string_view() : text.substr(zero + 1);
  try {
    const ModelConfig config = parse_model_config(text.substr(0, zero), generation, "fuzz");
    for (int64_t layer = 0; layer < config.n_layers; ++layer) (void)config.window(layer);
    for (const ExpectedTensor& tensor : expected_tensors(config)) {
      int64_t bytes = 8;  // of the widest dtype
      for (const int64_t extent : tensor.shape) {
        if (extent <= 0 || __builtin_mul_overflow(bytes, extent, &bytes)) std::abort();
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
