// SPDX-License-Identifier: Apache-2.0
// The input is a safetensors file; and, since random bytes rarely hold the right header size, it is
// also read as header and data, cut behind the last brace, with the size put in front.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "deltacome/error.h"
#include "io/safetensors.h"

using namespace deltacome;

namespace {

void parse(std::string_view text) {
  try {
    const auto bytes = std::as_bytes(std::span(text));
    const SafetensorsFile file = SafetensorsFile::parse(bytes, nullptr, "fuzz");
    size_t total = file.header_bytes().size();
    for (const auto& [name, tensor] : file.tensors()) {
      total += tensor.bytes.size();
      if (tensor.size() * dtype_bytes(tensor.dtype) != static_cast<int64_t>(tensor.bytes.size())) {
        std::abort();
      }
      if (is_floating(tensor.dtype)) (void)tensor.to_float();  // touches every byte
    }
    if (total != text.size()) std::abort();
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  parse(text);
  const size_t brace = text.rfind('}');
  const size_t header_size = brace == std::string_view::npos ? 0 : brace + 1;
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(header_size >> (8 * i) & 0xffu));
  parse(file.append(text));
  return 0;
}
