// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "backend/cpu/linear_inputs.h"
#include "backend/cpu/variant.h"
#include "backend/cpu/weight.h"

namespace deltacome::cpu {

/// The rows of one variant in one target of a linear() call.
struct Part {
  const VariantTensor* tensor = nullptr;  // null: the base's weight
  const float* bias = nullptr;            // null or [n_bias]
  int64_t n_bias = 0;
  std::vector<const float*> x;
  std::vector<float*> y;
  LinearInputs::Rows quantized;            // x as the codes multiply it; empty: they are decoded
  std::vector<float*> z;                   // [n] rows of the components' activations
  std::vector<QuantizedRows> z_quantized;  // by tier; of those without column scales

  int64_t n() const noexcept { return static_cast<int64_t>(x.size()); }
  RowSet rows() const noexcept { return {x.data(), y.data(), n()}; }
  Codec codec() const noexcept { return tensor->format.codec; }
  bool is(Codec wanted) const noexcept { return tensor != nullptr && codec() == wanted; }
};

/// One target of the call, its rows sorted by variant.
struct Product {
  Projection weight;
  std::vector<float> bias;
  std::vector<Part> parts;
  std::vector<const float*> base_x;  // rows that use the base's weight
  std::vector<float*> base_y;
  LinearInputs::Rows base_quantized;          // if the weight is packed
  std::vector<const uint16_t*> base_rounded;  // if it rounds its inputs
  int64_t n_out = 0;                          // columns that some row has

  int64_t n_rows() const noexcept;
  RowSet base_rows() const noexcept {
    return {base_x.data(), base_y.data(), static_cast<int64_t>(base_x.size())};
  }
};

/// Rows, outputs and biases of a target; asks `inputs` for what its products read.
Product make_product(const Runtime& runtime, const CpuVariantPlan& plan, const LinearTarget& target,
                     const Tensor& x, LinearInputs& inputs);

}  // namespace deltacome::cpu
