// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <vector>

#include "backend/cpu/activations.h"
#include "backend/cpu/runtime.h"
#include "backend/cpu/variant.h"

namespace deltacome::cpu {

/// The forms in which a call needs rows of its input: quantized, with gains, rotated, rounded to
/// bf16. Each is asked for once and computed once, before the products, whatever the number of
/// targets that read it.
class LinearInputs {
 public:
  using Rows = std::vector<const QuantizedRow*>;

  LinearInputs(const Runtime& runtime, int64_t n_in) : runtime_(runtime), n_in_(n_in) {}

  /// Rows of a variant as packed codes (dim 0) or vector codes of `dim` multiply them. `tensor`
  /// has the gains and the rotation; null = neither. `group` tells variants apart. With an `order`
  /// (without gains and rotation), column i is x[order[i]]. The result points to what compute()
  /// fills.
  Rows quantized(size_t group, const VariantTensor* tensor, const std::vector<const float*>& x,
                 int dim, const std::vector<int32_t>* order = nullptr);
  /// `rows` rounded to bf16. They are rows of x [n, n_in], which is the same in every call.
  std::vector<const uint16_t*> rounded(const std::vector<const float*>& rows, const float* x,
                                       int64_t n);
  void compute();

 private:
  struct Form {
    size_t group = 0;
    const VariantTensor* tensor = nullptr;
    const std::vector<int32_t>* order = nullptr;
    std::vector<const float*> x;
    std::vector<std::pair<int, QuantizedRows>> by_dim;

    bool suits(size_t other_group, const VariantTensor* other, bool rotates,
               const std::vector<int32_t>* other_order) const noexcept;
    bool rotates() const noexcept { return tensor != nullptr && tensor->signs != nullptr; }
  };
  void make_row(Form& form, int64_t r);

  Runtime runtime_;
  int64_t n_in_;
  std::deque<Form> forms_;           // no element moves
  const float* to_round_ = nullptr;  // [n, n_in]
  AlignedVector<uint16_t> rounded_;  // the same
};

}  // namespace deltacome::cpu
