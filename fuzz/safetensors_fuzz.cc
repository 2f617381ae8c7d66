// SPDX-License-Identifier: Apache-2.0
// The whole input is a safetensors file.
#include <cstdint>
#include <cstdlib>

#include "deltacome/error.h"
#include "io/safetensors.h"

using namespace deltacome;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto bytes = std::as_bytes(std::span(data, size));
    const SafetensorsFile file = SafetensorsFile::parse(bytes, nullptr, "fuzz");
    size_t total = file.header_bytes().size();
    for (const auto& [name, tensor] : file.tensors()) {
      total += tensor.bytes.size();
      if (tensor.size() * dtype_bytes(tensor.dtype) != static_cast<int64_t>(tensor.bytes.size())) {
        std::abort();
      }
      if (is_floating(tensor.dtype)) (void)tensor.to_float();  // touches every byte
    }
    if (total != size) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
