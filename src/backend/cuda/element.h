// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace deltacome::cuda {

/// Element types that kernels read, as plain CUDA knows them (DType needs C++20).
enum class Element { kF32, kF16, kBf16, kInt8 };

/// A matrix, row-major, in device memory.
struct Matrix {
  const void* data = nullptr;
  Element type = Element::kF32;
  long long rows = 0, cols = 0;
};

}  // namespace deltacome::cuda
