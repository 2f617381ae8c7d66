// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>

#include <map>
#include <memory>
#include <tuple>

#include "backend/cuda/element.h"
#include "backend/cuda/memory.h"

namespace deltacome::cuda {

/// y = x w^T, or y += x w^T; sums in f32. Rows of w and x start at 16 bytes.
struct Gemm {
  Element type = Element::kBf16;  // of w and x
  const void* w = nullptr;        // [n_out, w_stride]
  const void* x = nullptr;        // [n_rows, x_stride]
  void* y = nullptr;              // [n_rows, y_stride]
  int64_t n_rows = 0, n_out = 0, n_in = 0;
  int64_t w_stride = 0, x_stride = 0, y_stride = 0;
  Element result = Element::kF32;  // of y; or kBf16
  bool accumulates = false;
};

/// cuBLASLt with the choices that it made before. One thread at a time.
class LtMatmul {
 public:
  explicit LtMatmul(std::shared_ptr<DeviceMemory> memory);
  /// Stream-ordered. False, and nothing done, where cuBLASLt has no form of the product. Throws
  /// kDevice.
  bool multiply(CudaStream& stream, const Gemm& gemm);

 private:
  struct Product;  // a prepared call
  // Types, accumulates, rows, outputs, inputs, strides of w, x and y, alignment of all pointers.
  using Key = std::tuple<Element, Element, bool, int64_t, int64_t, int64_t, int64_t, int64_t,
                         int64_t, uint32_t>;
  struct DestroyHandle {
    void operator()(cublasLtHandle_t handle) const noexcept { cublasLtDestroy(handle); }
  };
  const Product& product(const Key& key);

  std::shared_ptr<DeviceMemory> memory_;
  std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, DestroyHandle> handle_;
  std::unique_ptr<CudaStorage> workspace_;
  std::map<Key, std::shared_ptr<const Product>> products_;
};

}  // namespace deltacome::cuda
