// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/linear.h"

#include <algorithm>

#include "backend/cuda/plain_product.h"
#include "backend/cuda/rows.h"

namespace deltacome::cuda {
namespace {

bool aligned(const void* p, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

}  // namespace

Element element_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return Element::kF32;
    case DType::kF16:
      return Element::kF16;
    case DType::kBf16:
      return Element::kBf16;
    default:
      fail(ErrorCode::kUnsupported, "weights of type {} on the GPU, expected F32, F16 or BF16",
           dtype_name(dtype));
  }
}

Matrix matrix_of(const Tensor& weight) {
  return {bytes_of(weight), element_of(weight.dtype), weight.rows(), weight.cols()};
}

void BaseLinear::multiply(CudaStream& stream, const Tensor& x, const Tensor& rounded,
                          const LinearTarget& target) {
  const Matrix w = matrix_of(target.weight);
  const auto plain = [&] {
    DELTACOME_CUDA_CHECK(
        launch_plain_product(w, f32(x), x.rows(), f32(target.y), target.y.cols(), stream.get()));
  };
  // The layouts that cuBLASLt can use start rows at 16 bytes; few rows of f32 are as well off here.
  const bool usable = w.cols % 8 == 0 && aligned(w.data, 16) && aligned(bytes_of(x), 16);
  if (!usable || (w.type == Element::kF32 && x.rows() <= kSkinnyRows)) return plain();
  const void* in = w.type == Element::kF32 ? bytes_of(x) : bytes_of(rounded);
  const bool done = context_.lt_matmul->multiply(stream, {.type = w.type,
                                                          .w = w.data,
                                                          .x = in,
                                                          .y = f32(target.y),
                                                          .n_rows = x.rows(),
                                                          .n_out = w.rows,
                                                          .n_in = w.cols,
                                                          .w_stride = w.cols,
                                                          .x_stride = w.cols,
                                                          .y_stride = target.y.cols()});
  if (!done) plain();
}

/// kSkinnyRows rows at a time.
bool BaseLinear::run_in_parts(CudaStream& stream, const Tensor& x,
                              std::span<const LinearTarget> targets, bool leaves_room) {
  for (int64_t first = 0; first < x.rows(); first += kSkinnyRows) {
    const int64_t n = std::min<int64_t>(kSkinnyRows, x.rows() - first);
    std::vector<LinearTarget> part(targets.begin(), targets.end());
    for (LinearTarget& target : part) target.y = target.y.slice(first, n);
    run(stream, x.slice(first, n), part, leaves_room);
  }
  return false;
}

bool BaseLinear::run(CudaStream& stream, const Tensor& x, std::span<const LinearTarget> targets,
                     bool leaves_room) {
  const int64_t n_rows = x.rows(), n_in = x.cols();
  if (context_.deterministic && n_rows > kSkinnyRows)
    return run_in_parts(stream, x, targets, leaves_room);
  for (const LinearTarget& target : targets) {
    DELTACOME_CHECK(target.weight.cols() == n_in && target.y.rows() == n_rows);
    DELTACOME_CHECK(target.y.cols() >= target.weight.rows());
  }
  std::vector<LinearTarget> of_codes;
  for (const LinearTarget& target : targets) {
    if (coded(target.weight) == nullptr) continue;
    of_codes.push_back(target);
    if (of_codes.size() < kMaxTargets) continue;
    coded_.run(stream, x, of_codes);
    of_codes.clear();
  }
  if (!of_codes.empty()) coded_.run(stream, x, of_codes);
  const auto is_skinny = [&](const LinearTarget& target) {
    const Matrix w = matrix_of(target.weight);
    return n_rows <= kSkinnyRows && w.type != Element::kF32 && n_in % 8 == 0 &&
           aligned(w.data, 16) && aligned(bytes_of(x), 16);
  };
  Tensor rounded;  // x, for cuBLASLt
  Element rounded_to = Element::kF32;
  Skinny skinny;
  skinny.x = f32(x);
  skinny.n_rows = static_cast<int>(n_rows);
  skinny.n_in = n_in;
  skinny.overlaps = context_.overlaps;
  skinny.leaves_room = leaves_room;
  const auto launch = [&] {
    if (skinny.n_targets == 0) return false;
    DELTACOME_CUDA_CHECK(launch_skinny(skinny, context_.n_sms, stream.get()));
    skinny.n_targets = 0;
    return context_.overlaps;
  };
  for (const LinearTarget& target : targets) {
    if (coded(target.weight) != nullptr) continue;
    const Matrix w = matrix_of(target.weight);
    if (is_skinny(target)) {
      if (skinny.n_targets == kSkinnyTargets || (skinny.n_targets > 0 && skinny.type != w.type))
        launch();
      skinny.type = w.type;
      skinny.targets[skinny.n_targets++] = {w.data, f32(target.y), w.rows, target.y.cols()};
      continue;
    }
    if (w.type != Element::kF32 && n_rows > kSkinnyRows && rounded_to != w.type) {
      rounded = context_.allocate(target.weight.dtype, x.shape);
      rounded_to = w.type;
      DELTACOME_CUDA_CHECK(launch_round(f32(x), w.type, bytes_of(rounded), x.size(), stream.get()));
    }
    multiply(stream, x, rounded, target);
  }
  return launch();
}

void add_biases(CudaStream& stream, const CudaVariantPlan& plan,
                std::span<const LinearTarget> targets) {
  for (const LinearTarget& target : targets) {
    if (target.bias.empty()) continue;
    DELTACOME_CHECK(target.bias.size() == target.weight.rows());
    DELTACOME_CUDA_CHECK(launch_bias({.y = f32(target.y),
                                      .n_rows = target.y.rows(),
                                      .n = target.bias.size(),
                                      .stride = target.y.cols(),
                                      .bias = bytes_of(target.bias),
                                      .type = element_of(target.bias.dtype),
                                      .own = plan.raw_rows(target.bias_slot)},
                                     stream.get()));
  }
}

}  // namespace deltacome::cuda
