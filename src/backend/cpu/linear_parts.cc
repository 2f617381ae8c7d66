// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/linear_parts.h"

#include <algorithm>

#include "core/check.h"

namespace deltacome::cpu {
namespace {

constexpr size_t kBaseGroup = ~size_t{0};  // of LinearInputs: the rows that use the base's weight

Part make_part(const CpuVariantPlan::Group& group, const LinearTarget& target,
               const Product& product, const Tensor& x) {
  Part part;
  part.tensor = group.find(target.slot);
  if (!target.bias.empty()) {
    const VariantTensor* own = group.find(target.bias_slot);
    const std::vector<float>& bias = own == nullptr ? product.bias : own->values;
    part.bias = bias.data();
    part.n_bias = static_cast<int64_t>(bias.size());
  }
  for (const int64_t row : group.rows) {
    part.x.push_back(f32(x) + row * x.cols());
    part.y.push_back(f32(target.y) + row * target.y.cols());
  }
  return part;
}

/// Outputs that a part's rows have. A variant may have more than the base, or fewer.
int64_t outputs_of(const Part& part, const Projection& weight) {
  if (part.tensor == nullptr) return weight.n_rows();
  DELTACOME_CHECK(part.tensor->format.n_in() == weight.n_in());
  if (part.codec() == Codec::kRaw) return part.tensor->n_out();
  DELTACOME_CHECK(part.tensor->format.base_rows <= weight.n_rows());
  DELTACOME_CHECK(part.tensor->added.n_rows == 0 ||
                  part.tensor->format.base_rows == weight.n_rows());
  return part.tensor->n_out();
}

void ask_for_input(Part& part, size_t group, LinearInputs& inputs) {
  if (part.is(Codec::kVector)) {
    part.quantized = inputs.quantized(group, part.tensor, part.x, part.tensor->vector.dim());
  } else if (part.tensor != nullptr && part.tensor->packed) {
    part.quantized = inputs.quantized(group, part.tensor, part.x, 0);
  }
}

}  // namespace

int64_t Product::n_rows() const noexcept {
  int64_t n = 0;
  for (const Part& part : parts) n += part.n();
  return n;
}

Product make_product(const Runtime& runtime, const CpuVariantPlan& plan, const LinearTarget& target,
                     const Tensor& x, LinearInputs& inputs) {
  Product product;
  product.weight = projection_of(target.weight);
  DELTACOME_CHECK(product.weight.n_in() == x.cols() && target.y.rows() == x.rows());
  if (!target.bias.empty()) {
    product.bias.resize(static_cast<size_t>(target.bias.size()));
    convert_to_float(bytes_of(target.bias), target.bias.dtype, product.bias);
  }
  for (size_t g = 0; g < plan.groups().size(); ++g) {
    product.parts.push_back(make_part(plan.groups()[g], target, product, x));
    Part& part = product.parts.back();
    product.n_out = std::max(product.n_out, outputs_of(part, product.weight));
    ask_for_input(part, g, inputs);
    if (part.is(Codec::kRaw)) continue;
    product.base_x.insert(product.base_x.end(), part.x.begin(), part.x.end());
    product.base_y.insert(product.base_y.end(), part.y.begin(), part.y.end());
  }
  DELTACOME_CHECK(product.n_out <= target.y.cols());
  if (product.base_x.empty()) return product;
  if (product.weight.packed != nullptr) {
    std::vector<const float*> all;
    for (int64_t r = 0; r < x.rows(); ++r) all.push_back(f32(x) + r * x.cols());
    const LinearInputs::Rows rows =
        inputs.quantized(kBaseGroup, nullptr, all, 0, product.weight.order);
    for (const float* row : product.base_x)
      product.base_quantized.push_back(rows[static_cast<size_t>((row - f32(x)) / x.cols())]);
  } else if (product.weight.rounds_inputs && runtime.kernels.bf16 != nullptr) {
    product.base_rounded = inputs.rounded(product.base_x, f32(x), x.rows());
  }
  return product;
}

}  // namespace deltacome::cpu
