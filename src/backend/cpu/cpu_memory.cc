// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/cpu_memory.h"

#include <cstdlib>

namespace deltacome::cpu {

Tensor allocate(DType dtype, Shape shape) {
  const int64_t bytes = element_count(shape) * dtype_bytes(dtype);
  const auto padded = static_cast<size_t>((bytes + 63) / 64 * 64);
  auto* data = static_cast<std::byte*>(std::aligned_alloc(64, padded == 0 ? 64 : padded));
  if (data == nullptr) {
    fail(ErrorCode::kOutOfMemory, "cannot allocate {} bytes for a tensor of shape {}", bytes,
         to_string(shape));
  }
  std::shared_ptr<const void> owner(data, [](const void* p) { std::free(const_cast<void*>(p)); });
  return {std::make_shared<CpuStorage>(data, std::move(owner)), 0, dtype, std::move(shape)};
}

}  // namespace deltacome::cpu
