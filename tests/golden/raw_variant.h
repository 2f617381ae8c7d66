// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "io/model_config.h"
#include "io/safetensors.h"

namespace deltacome::test {

/// A whole fine-tune as a variant whose every tensor replaces the base's.
inline std::shared_ptr<const DeviceVariant> raw_variant(
    Backend& backend, Stream& stream, const Checkpoint& checkpoint,
    const std::vector<ExpectedTensor>& expected) {
  const auto variant = backend.create_variant(static_cast<int>(expected.size()));
  for (size_t slot = 0; slot < expected.size(); ++slot) {
    const HostTensor& tensor = checkpoint.at(expected[slot].name);
    MatrixFormat format;
    format.codec = Codec::kRaw;
    format.shape = tensor.shape;
    format.raw_dtype = tensor.dtype;
    std::vector<std::byte> blob(static_cast<size_t>(layout_of(format).total_bytes));
    std::ranges::copy(tensor.bytes, blob.begin());
    const auto n_bytes = static_cast<int64_t>(blob.size());
    variant->set(static_cast<int>(slot), format,
                 HostTensor::of(DType::kU8, {n_bytes}, std::move(blob)), stream);
  }
  stream.synchronize();
  return variant;
}

}  // namespace deltacome::test
