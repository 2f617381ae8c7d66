// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/linear_inputs.h"

#include <algorithm>

#include "core/check.h"

namespace deltacome::cpu {

bool LinearInputs::Form::suits(size_t other_group, const VariantTensor* other, bool other_rotates,
                               const std::vector<int32_t>* other_order) const noexcept {
  if (group != other_group || rotates() != other_rotates) return false;
  if (order != other_order &&
      (order == nullptr || other_order == nullptr || *order != *other_order))
    return false;
  const auto gains_of = [](const VariantTensor* t) {
    return t == nullptr ? std::span<const float>() : std::span<const float>(t->col_gain);
  };
  if (!std::ranges::equal(gains_of(tensor), gains_of(other))) return false;
  return !other_rotates || (tensor->signs == other->signs &&
                            tensor->format.vector.block == other->format.vector.block);
}

LinearInputs::Rows LinearInputs::quantized(size_t group, const VariantTensor* tensor,
                                           const std::vector<const float*>& x, int dim,
                                           const std::vector<int32_t>* order) {
  DELTACOME_CHECK((dim != 0) == (tensor != nullptr && tensor->signs != nullptr));
  auto form = std::ranges::find_if(
      forms_, [&](const Form& f) { return f.suits(group, tensor, dim != 0, order); });
  if (form == forms_.end()) {
    forms_.push_back({group, tensor, order, x, {}});
    form = forms_.end() - 1;
  }
  auto rows = std::ranges::find_if(form->by_dim, [&](const auto& d) { return d.first == dim; });
  if (rows == form->by_dim.end()) {
    form->by_dim.emplace_back(dim, QuantizedRows(static_cast<int64_t>(x.size()), n_in_, dim));
    rows = form->by_dim.end() - 1;
  }
  Rows out;
  for (int64_t r = 0; r < rows->second.n_rows(); ++r) out.push_back(&rows->second.row(r));
  return out;
}

std::vector<const uint16_t*> LinearInputs::rounded(const std::vector<const float*>& rows,
                                                   const float* x, int64_t n) {
  DELTACOME_CHECK(to_round_ == nullptr || to_round_ == x);
  to_round_ = x;
  rounded_.resize(static_cast<size_t>(n * n_in_));
  std::vector<const uint16_t*> out;
  for (const float* row : rows) out.push_back(rounded_.data() + (row - x));
  return out;
}

void LinearInputs::make_row(Form& form, int64_t r) {
  const float* x = form.x[static_cast<size_t>(r)];
  const std::vector<float> none;
  const std::vector<float>& gains = form.tensor == nullptr ? none : form.tensor->col_gain;
  if (form.order != nullptr) {
    float* sorted = thread_scratch(n_in_).data();
    for (size_t i = 0; i < form.order->size(); ++i) sorted[i] = x[(*form.order)[i]];
    x = sorted;
  }
  if (!form.rotates()) {
    for (auto& [dim, rows] : form.by_dim)
      rows.set(*runtime_.kernels.packed, r, x, gains.empty() ? nullptr : gains.data());
    return;
  }
  float* rotated = thread_scratch(n_in_).data();
  if (gains.empty()) {
    std::copy_n(x, n_in_, rotated);
  } else {
    runtime_.kernels.scale(x, 1, gains.data(), n_in_, rotated);
  }
  runtime_.kernels.rotate(rotated, form.tensor->signs->data(), n_in_,
                          form.tensor->format.vector.block);
  for (auto& [dim, rows] : form.by_dim) rows.set(*runtime_.kernels.packed, r, rotated, nullptr);
}

void LinearInputs::compute() {
  struct Task {
    Form* form;  // null: a row to round
    int64_t row;
  };
  std::vector<Task> tasks;
  int64_t work = 0;
  for (Form& form : forms_) {
    const auto n = static_cast<int64_t>(form.x.size());
    for (int64_t r = 0; r < n; ++r) tasks.push_back({&form, r});
    work += n * n_in_ * (form.rotates() ? 4 : 1);
  }
  const auto n_rounded = static_cast<int64_t>(rounded_.size()) / std::max<int64_t>(n_in_, 1);
  for (int64_t r = 0; r < n_rounded; ++r) tasks.push_back({nullptr, r});
  work += static_cast<int64_t>(rounded_.size()) / 4;
  const auto n = static_cast<int64_t>(tasks.size());
  runtime_.pool.parallel_for(n, grain_of(n, work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Task& task = tasks[static_cast<size_t>(i)];
      if (task.form != nullptr) {
        make_row(*task.form, task.row);
      } else {
        const int64_t at = task.row * n_in_;
        runtime_.kernels.bf16->round(to_round_ + at, n_in_, rounded_.data() + at);
      }
    }
  });
}

}  // namespace deltacome::cpu
