// SPDX-License-Identifier: Apache-2.0
// The input is a file of torch.save, or, with another first byte than a ZIP file's, its pickle.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "deltacome/error.h"
#include "io/pickle.h"
#include "io/torch_file.h"

using namespace deltacome;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  try {
    if (size > 0 && data[0] != 'P') {
      for (const PickledTensor& tensor : read_torch_pickle(bytes, "fuzz")) {
        if (tensor.shape.size() != tensor.strides.size()) std::abort();
      }
      return 0;
    }
    unsigned sum = 0;
    for (const auto& [name, tensor] : parse_torch_file(bytes, nullptr, "fuzz")) {
      if (tensor.size() * dtype_bytes(tensor.dtype) != static_cast<int64_t>(tensor.bytes.size()))
        std::abort();
      for (const std::byte byte : tensor.bytes) sum += std::to_integer<unsigned>(byte);
    }
    static volatile unsigned keep;
    keep = sum;
  } catch (const Error&) {
  }
  return 0;
}
