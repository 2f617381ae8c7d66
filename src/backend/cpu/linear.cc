// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/linear.h"

#include <algorithm>

#include "backend/cpu/cpu_memory.h"
#include "backend/cpu/linear_tasks.h"

namespace deltacome::cpu {
namespace {

// Weight rows that are decoded at a time, a piece of which stays in a second-level cache.
constexpr int64_t kDecodedRows = 32;
constexpr int64_t kDenseScratch = (kDecodedRows + 1) * kInputBlock;  // and scales
constexpr int64_t kExpandComponents = 128;                           // decoded at a time: 64 KiB

/// y[t][y_first + i] = or += row first + i of w times x[t], i < count.
void multiply_packed(const Kernels& kernels, const PackedRows& w, int64_t first, int64_t count,
                     std::span<const QuantizedRow* const> x, float* const* y, int64_t y_first,
                     bool add) {
  if (x.empty() || count <= 0) return;
  kernels.packed->dot({.shape = &w.shape(),
                       .codes = w.codes(),
                       .n_rows = w.rows(),
                       .first = first,
                       .count = count,
                       .scale = w.scale,
                       .row_scale = w.row_scale.empty() ? nullptr : w.row_scale.data() + first,
                       .x = x.data(),
                       .y = y,
                       .n_tokens = static_cast<int64_t>(x.size()),
                       .y_first = y_first,
                       .add = add});
}

/// All targets of one call and the memory between its regions.
class LinearCall {
 public:
  LinearCall(const Runtime& runtime, const CpuVariantPlan& plan, const Tensor& x,
             std::span<const LinearTarget> targets)
      : runtime_(runtime), inputs_(runtime, x.cols()) {
    products_.reserve(targets.size());
    for (const LinearTarget& target : targets)
      products_.push_back(make_product(runtime, plan, target, x, inputs_));
    allocate_components();
  }

  /// `all`: or only the deltas that come on top of other weights.
  void run(bool all) {
    inputs_.compute();
    const LinearTasks tasks = make_tasks(products_, runtime_.pool.n_threads(), all);
    run_tasks(runtime_, tasks.first, [this](const Task& task) {
      task.part == nullptr ? compute_outputs(task) : shrink(task);
    });
    quantize_components();
    run_tasks(runtime_, tasks.second, [this](const Task& task) {
      task.part->is(Codec::kVector) ? add_vector(*task.part, task) : expand(task);
    });
  }

 private:
  void allocate_components() {
    int64_t total = 0;
    const auto each_low_rank = [this](const auto& visit) {
      for (Product& product : products_) {
        for (Part& part : product.parts) {
          if (part.is(Codec::kLowRank)) visit(part);
        }
      }
    };
    each_low_rank([&](Part& part) { total += part.n() * part.tensor->rank(); });
    components_.resize(static_cast<size_t>(total));
    float* next = components_.data();
    each_low_rank([&](Part& part) {
      for (int64_t r = 0; r < part.n(); ++r, next += part.tensor->rank()) part.z.push_back(next);
      if (!part.tensor->packed) return;
      for (const VariantTensor::Tier& tier : part.tensor->tiers)
        part.z_quantized.emplace_back(tier.packed_u.column_scale.empty() ? part.n() : 0, tier.rank);
    });
  }

  /// z of every part as the codes of U multiply it.
  void quantize_components() {
    std::vector<std::pair<Part*, int64_t>> rows;
    for (Product& product : products_) {
      for (Part& part : product.parts) {
        for (int64_t r = 0; !part.z_quantized.empty() && r < part.n(); ++r)
          rows.emplace_back(&part, r);
      }
    }
    const auto n = static_cast<int64_t>(rows.size());
    const auto work = static_cast<int64_t>(components_.size());
    runtime_.pool.parallel_for(n, grain_of(n, work), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto& [part, r] = rows[static_cast<size_t>(i)];
        for (size_t t = 0; t < part->z_quantized.size(); ++t) {
          if (part->z_quantized[t].n_rows() == 0) continue;
          const float* z = part->z[static_cast<size_t>(r)] + part->tensor->tiers[t].first;
          part->z_quantized[t].set(*runtime_.kernels.packed, r, z, nullptr);
        }
      }
    });
  }

  /// Outputs [first, first + count) of all rows, but for deltas of the second stage.
  void compute_outputs(const Task& task) const {
    const Product& product = *task.product;
    multiply_base(product, task);
    for (const Part& part : product.parts) {
      if (part.is(Codec::kRaw)) multiply_within(part.tensor->raw, 0, task, part.rows());
      if (part.tensor != nullptr && part.codec() != Codec::kRaw)
        multiply_within(part.tensor->added, product.weight.n_rows(), task, part.rows());
      for (float* y : part.y) {
        const int64_t end = std::min(task.first + task.count, part.n_bias);
        for (int64_t o = task.first; o < end; ++o) y[o] += part.bias[o];
      }
      if (part.is(Codec::kDense)) add_dense(part, task);
    }
  }

  void multiply_base(const Product& product, const Task& task) const {
    const Projection& w = product.weight;
    const int64_t count = std::min(task.count, w.n_rows() - task.first);
    if (count <= 0 || product.base_x.empty()) return;
    if (w.packed != nullptr) {
      multiply_packed(runtime_.kernels, *w.packed, task.first, count, product.base_quantized,
                      product.base_y.data(), task.first, false);
      if (!w.zeros.empty()) add_zeros(product, task.first, count);
    } else if (!product.base_rounded.empty()) {
      runtime_.kernels.bf16->dot({.x = product.base_rounded.data(),
                                  .n_tokens = static_cast<int64_t>(product.base_rounded.size()),
                                  .w = w.stored.data + 2 * task.first * w.n_in(),
                                  .n_out = count,
                                  .k = w.n_in(),
                                  .y = product.base_y.data(),
                                  .y_first = task.first});
    } else {
      multiply_within(w.stored, 0, task, product.base_rows());
    }
  }

  /// y += zeros times sums of the input: what codes around another center than the layout's lack.
  void add_zeros(const Product& product, int64_t first, int64_t count) const {
    const Projection& w = product.weight;
    const int64_t n_sums = static_cast<int64_t>(w.zeros.size()) / w.n_rows();
    std::vector<const float*> sums;
    for (const QuantizedRow* row : product.base_quantized)
      sums.push_back(n_sums == 1 ? &row->total : row->sum);
    runtime_.kernels.dot({.x = sums.data(),
                          .n_rows = static_cast<int64_t>(sums.size()),
                          .w = w.zeros.data() + first * n_sums,
                          .w_stride = n_sums,
                          .n_out = count,
                          .k = n_sums,
                          .y = product.base_y.data(),
                          .y_offset = first,
                          .add = true});
  }

  /// The rows of `w` that give outputs of the task, if row 0 gives output `offset`.
  void multiply_within(const WeightView& w, int64_t offset, const Task& task,
                       const RowSet& rows) const {
    const int64_t begin = std::max(task.first, offset);
    const int64_t end = std::min(task.first + task.count, offset + w.n_rows);
    if (begin >= end) return;
    multiply(runtime_.kernels, w, begin - offset, end - begin, rows, begin,
             thread_scratch(multiply_scratch()).data());
  }

  void add_dense(const Part& part, const Task& task) const {
    const int64_t end = std::min(task.first + task.count, part.tensor->format.base_rows);
    if (part.tensor->packed) {
      return multiply_packed(runtime_.kernels, part.tensor->packed_dense, task.first,
                             end - task.first, part.quantized, part.y.data(), task.first, true);
    }
    float* scratch = thread_scratch(kDenseScratch).data();
    for (int64_t o = task.first; o < end; o += kDecodedRows)
      multiply_coded(part.tensor->dense, {}, o, std::min(kDecodedRows, end - o), part.rows(), o,
                     true, scratch);
  }

  /// y += (rotated rows) x'.
  void add_vector(const Part& part, const Task& task) const {
    part.tensor->vector.multiply(*runtime_.kernels.packed, task.first, task.count, part.quantized,
                                 part.y.data());
  }

  /// tile [n_rows, stride]: columns times gains[first, first + n_cols), if there are any.
  void apply_gains(std::span<const float> gains, int64_t first, int64_t n_cols, float* tile,
                   int64_t n_rows, int64_t stride) const {
    if (gains.empty()) return;
    for (int64_t i = 0; i < n_rows; ++i, tile += stride)
      runtime_.kernels.scale(tile, 1, gains.data() + first, n_cols, tile);
  }

  /// y[r][y_first + i] = or += (row first + i of a, times gains) x[r].
  void multiply_coded(const CodedRows& a, std::span<const float> gains, int64_t first,
                      int64_t count, const RowSet& rows, int64_t y_first, bool add,
                      float* scratch) const {
    for (int64_t begin = 0; begin < a.cols(); begin += kInputBlock) {
      const int64_t n = std::min(kInputBlock, a.cols() - begin);
      a.decode(runtime_.kernels, {first, count, begin, n}, scratch, n, scratch + count * n);
      apply_gains(gains, begin, n, scratch, count, n);
      runtime_.kernels.dot({.x = rows.x,
                            .x_offset = begin,
                            .n_rows = rows.n,
                            .w = scratch,
                            .w_stride = n,
                            .n_out = count,
                            .k = n,
                            .y = rows.y,
                            .y_offset = y_first,
                            .add = add || begin > 0});
    }
  }

  /// z = s * (V x) for components [first, first + count) of a tier.
  void shrink(const Task& task) const {
    const Part& part = *task.part;
    const int64_t at = task.tier->first + task.first;
    if (part.tensor->packed) {
      return multiply_packed(runtime_.kernels, task.tier->packed_v, task.first, task.count,
                             part.quantized, part.z.data(), at, false);
    }
    float* scratch = thread_scratch((kShrinkTile + 1) * kInputBlock).data();
    multiply_coded(task.tier->v, part.tensor->col_gain, task.first, task.count,
                   {part.x.data(), part.z.data(), part.n()}, at, false, scratch);
    for (float* z : part.z) {
      for (int64_t c = at; c < at + task.count; ++c) z[c] *= part.tensor->s[static_cast<size_t>(c)];
    }
  }

  /// y += U z for outputs [first, first + count).
  void expand(const Task& task) const {
    const Part& part = *task.part;
    if (part.tensor->packed) return expand_packed(part, task);
    float* scratch = thread_scratch((kExpandComponents + 1) * kExpandOutputs).data();
    for (const VariantTensor::Tier& tier : part.tensor->tiers) {
      for (int64_t c = 0; c < tier.u.rows(); c += kExpandComponents) {
        const int64_t n = std::min(kExpandComponents, tier.u.rows() - c);
        tier.u.decode(runtime_.kernels, {c, n, task.first, task.count}, scratch, kExpandOutputs,
                      scratch + kExpandComponents * kExpandOutputs);
        apply_gains(part.tensor->row_gain, task.first, task.count, scratch, n, kExpandOutputs);
        runtime_.kernels.accumulate({.z = part.z.data(),
                                     .z_offset = tier.first + c,
                                     .n_rows = part.n(),
                                     .u = scratch,
                                     .u_stride = kExpandOutputs,
                                     .n_terms = n,
                                     .n_cols = task.count,
                                     .y = part.y.data(),
                                     .y_offset = task.first});
      }
    }
  }

  void expand_packed(const Part& part, const Task& task) const {
    LinearInputs::Rows z(part.x.size());
    for (size_t t = 0; t < part.tensor->tiers.size(); ++t) {
      const VariantTensor::Tier& tier = part.tensor->tiers[t];
      const PackedRows& u = tier.packed_u;
      thread_local QuantizedRows scaled;
      const QuantizedRows* rows = &part.z_quantized[t];
      if (!u.column_scale.empty()) {  // of tiers smaller than a group: a few components
        const float* gains = u.column_scale.data() + task.first / u.column_rows * tier.rank;
        scaled.reset(part.n(), tier.rank);
        for (int64_t r = 0; r < part.n(); ++r)
          scaled.set(*runtime_.kernels.packed, r, part.z[static_cast<size_t>(r)] + tier.first,
                     gains);
        rows = &scaled;
      }
      for (size_t r = 0; r < z.size(); ++r) z[r] = &rows->row(static_cast<int64_t>(r));
      multiply_packed(runtime_.kernels, u, task.first, task.count, z, part.y.data(), task.first,
                      true);
    }
  }

  Runtime runtime_;
  LinearInputs inputs_;
  std::vector<Product> products_;
  std::vector<float> components_;  // z of all parts
};

}  // namespace

void linear(const Runtime& runtime, const CpuVariantPlan& plan, const Tensor& x,
            std::span<const LinearTarget> targets) {
  DELTACOME_CHECK(plan.n_rows() == x.rows());
  LinearCall(runtime, plan, x, targets).run(true);
}

void add_deltas(const Runtime& runtime, const CpuVariantPlan& plan, const Tensor& x,
                std::span<const LinearTarget> targets) {
  LinearCall(runtime, plan, x, targets).run(false);
}

}  // namespace deltacome::cpu
