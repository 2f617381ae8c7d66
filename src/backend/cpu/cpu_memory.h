// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "backend/tensor.h"

namespace deltacome::cpu {

/// Host memory behind a tensor of the CPU backend: an own block, or bytes that `owner` keeps alive.
class CpuStorage final : public Storage {
 public:
  CpuStorage(std::byte* data, std::shared_ptr<const void> owner)
      : data_(data), owner_(std::move(owner)) {}
  std::byte* data() const noexcept { return data_; }

 private:
  std::byte* data_;
  std::shared_ptr<const void> owner_;
};

/// First byte of a tensor of the CPU backend.
inline std::byte* bytes_of(const Tensor& tensor) {
  DELTACOME_CHECK(tensor.storage != nullptr);
  return static_cast<CpuStorage&>(*tensor.storage).data() + tensor.offset;
}

/// Elements of an f32 (f64) tensor; such tensors are allocated by the backend, so they are aligned.
inline float* f32(const Tensor& tensor) {
  DELTACOME_CHECK(tensor.dtype == DType::kF32);
  return reinterpret_cast<float*>(bytes_of(tensor));
}
inline double* f64(const Tensor& tensor) {
  DELTACOME_CHECK(tensor.dtype == DType::kF64);
  return reinterpret_cast<double*>(bytes_of(tensor));
}

/// A new tensor of undefined contents, 64-byte aligned. Throws kOutOfMemory.
Tensor allocate(DType dtype, Shape shape);

}  // namespace deltacome::cpu
