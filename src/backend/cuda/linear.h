// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>

#include <map>
#include <memory>
#include <span>
#include <tuple>

#include "backend/cuda/context.h"
#include "backend/cuda/element.h"
#include "backend/cuda/variant_plan.h"

namespace deltacome::cuda {

Element element_of(DType dtype);  // throws kUnsupported for a type that kernels do not read
Matrix matrix_of(const Tensor& weight);

/// y = W x of the base: an own kernel for a few rows, cuBLASLt for more. x is rounded to the
/// type of W, sums are in f32. For at most kSkinnyRows rows a row's result does not depend on the
/// others; with cuBLASLt it may, by the order of the sum.
class BaseLinear {
 public:
  explicit BaseLinear(const CudaContext& context);
  void run(CudaStream& stream, const Tensor& x, std::span<const LinearTarget> targets);

 private:
  struct Product;  // a prepared call of cuBLASLt
  // Type, rows, outputs, inputs, elements between rows of y, bytes that all pointers are aligned
  // to.
  using Key = std::tuple<Element, int64_t, int64_t, int64_t, int64_t, uint32_t>;
  void multiply(CudaStream& stream, const Tensor& x, const Tensor& rounded,
                const LinearTarget& target);
  const Product& product(const Key& key);

  struct DestroyHandle {
    void operator()(cublasLtHandle_t handle) const noexcept { cublasLtDestroy(handle); }
  };
  CudaContext context_;
  std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, DestroyHandle> handle_;
  Tensor workspace_;
  std::map<Key, std::shared_ptr<const Product>> products_;
};

/// y += b, each row's own variant's where it has one; after the deltas, since a raw tensor of a
/// variant replaces y.
void add_biases(CudaStream& stream, const CudaVariantPlan& plan,
                std::span<const LinearTarget> targets);

}  // namespace deltacome::cuda
