// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "io/archive.h"

namespace deltacome {

CodedTensor encode_raw(const std::string& name, const HostTensor& tensor) {
  MatrixFormat format{.codec = Codec::kRaw,
                      .shape = tensor.shape,
                      .raw_dtype = tensor.dtype,
                      .base_rows = tensor.rows(),
                      .dense = {},
                      .tiers = {}};
  std::vector<std::byte> blob(static_cast<size_t>(layout_of(format).total_bytes));
  std::memcpy(blob.data(), tensor.bytes.data(), tensor.bytes.size());
  return {name, std::move(format), std::move(blob), {}};
}

}  // namespace deltacome
