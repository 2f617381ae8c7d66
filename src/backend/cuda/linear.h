// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "backend/cuda/coded_base.h"
#include "backend/cuda/context.h"
#include "backend/cuda/element.h"
#include "backend/cuda/skinny.h"
#include "backend/cuda/variant_plan.h"

namespace deltacome::cuda {

Element element_of(DType dtype);  // throws kUnsupported for a type that kernels do not read
Matrix matrix_of(const Tensor& weight);

/// y = W x of the base: up to kSkinnyRows rows by an own kernel, which is faster there than
/// cuBLASLt (docs/benchmarks.md), more by cuBLASLt; W in codes: CodedBase. x is rounded to the type
/// of W, sums are in f32. Of up to kSkinnyRows rows one's result does not depend on the others;
/// with cuBLASLt it may, by the order of the sum. If deterministic it never does: kSkinnyRows rows
/// at a time are multiplied by the own kernel.
class BaseLinear {
 public:
  explicit BaseLinear(const CudaContext& context) : context_(context), coded_(context) {}
  /// `leaves_room`: a kernel that begins early behind it may run beside it. True: it begins when x
  /// is there, and has to wait for this before it ends.
  bool run(CudaStream& stream, const Tensor& x, std::span<const LinearTarget> targets,
           bool leaves_room);

 private:
  bool run_in_parts(CudaStream& stream, const Tensor& x, std::span<const LinearTarget> targets,
                    bool leaves_room);
  void multiply(CudaStream& stream, const Tensor& x, const Tensor& rounded,
                const LinearTarget& target);

  CudaContext context_;
  CodedBase coded_;
};

/// y += b, each row's own variant's where it has one; after the deltas, since a raw tensor of a
/// variant replaces y.
void add_biases(CudaStream& stream, const CudaVariantPlan& plan,
                std::span<const LinearTarget> targets);

}  // namespace deltacome::cuda
