// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/linear.h"

#include <algorithm>

#include "backend/cpu/cpu_memory.h"
#include "quant/vector_codes.h"

namespace deltacome::cpu {
namespace {

// Weight rows of a task, a piece of which stays in a second-level cache. Many rows of x are read
// once for each task, so then it is wider.
constexpr int64_t kOutputTile = 32;
constexpr int64_t kWideOutputTile = 128;
constexpr int64_t kWideFromRows = 32;
constexpr int64_t kDenseScratch = (kOutputTile + 1) * kInputBlock;  // decoded rows and scales
constexpr int64_t kShrinkTile = 16;                                 // components of a task
constexpr int64_t kExpandOutputs = 128;                             // outputs of a task
constexpr int64_t kExpandComponents = 128;  // components decoded at a time: 64 KiB

/// The rows of one variant in one target.
struct Part {
  const VariantTensor* tensor = nullptr;  // null: the base's weight
  const float* bias = nullptr;            // null or [n_bias]
  int64_t n_bias = 0;
  std::vector<const float*> x;
  std::vector<const float*> rotated;  // vector codes only: [n] rows of x' = R^T (col_gain * x)
  std::vector<float*> y;
  std::vector<float*> z;  // [n] rows of the components' activations

  int64_t n() const noexcept { return static_cast<int64_t>(x.size()); }
  RowSet rows() const noexcept { return {x.data(), y.data(), n()}; }
  Codec codec() const noexcept { return tensor->format.codec; }
};

/// One target of the call, its rows sorted by variant.
struct Product {
  WeightView weight;
  std::vector<float> bias;
  std::vector<Part> parts;
  std::vector<const float*> base_x;  // rows that use the base's weight
  std::vector<float*> base_y;
  int64_t n_out = 0;  // columns that some row has

  int64_t n_rows() const noexcept {
    int64_t n = 0;
    for (const Part& part : parts) n += part.n();
    return n;
  }
  RowSet base_rows() const noexcept {
    return {base_x.data(), base_y.data(), static_cast<int64_t>(base_x.size())};
  }
};

/// The input of the vector codes of one variant that have its gains and its rotation: those of
/// targets that share an input do.
struct Rotation {
  const VariantTensor* tensor = nullptr;  // the first of them
  std::vector<const float*> x;
  std::vector<float*> rotated;

  bool suits(const VariantTensor& other) const noexcept {
    return tensor->signs == other.signs &&
           tensor->format.vector.block == other.format.vector.block &&
           tensor->col_gain == other.col_gain;
  }
  /// R^T (col_gain * x) of row r.
  void apply(size_t r) const {
    const auto n = static_cast<size_t>(tensor->format.n_in());
    float* out = rotated[r];
    std::copy_n(x[r], n, out);
    for (size_t i = 0; i < tensor->col_gain.size(); ++i) out[i] *= tensor->col_gain[i];
    rotate(std::span(out, n), *tensor->signs, tensor->format.vector.block);
  }
};

/// A piece of work for one thread.
struct Task {
  const Product* product = nullptr;
  const Part* part = nullptr;                 // null: outputs of all parts
  const VariantTensor::Tier* tier = nullptr;  // null: outputs
  int64_t first = 0;                          // output or component
  int64_t count = 0;
};

WeightView view_of(const Tensor& weight) {
  return {bytes_of(weight), weight.dtype, weight.rows(), weight.cols()};
}

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
int64_t outputs_of(const Part& part, const WeightView& weight) {
  if (part.tensor == nullptr) return weight.n_rows;
  DELTACOME_CHECK(part.tensor->format.n_in() == weight.n_in);
  if (part.codec() == Codec::kRaw) return part.tensor->n_out();
  DELTACOME_CHECK(part.tensor->format.base_rows <= weight.n_rows);
  DELTACOME_CHECK(part.tensor->added.n_rows == 0 || part.tensor->format.base_rows == weight.n_rows);
  return part.tensor->n_out();
}

Product make_product(const CpuVariantPlan& plan, const LinearTarget& target, const Tensor& x) {
  Product product;
  product.weight = view_of(target.weight);
  DELTACOME_CHECK(product.weight.n_in == x.cols() && target.y.rows() == x.rows());
  if (!target.bias.empty()) {
    product.bias.resize(static_cast<size_t>(target.bias.size()));
    convert_to_float(bytes_of(target.bias), target.bias.dtype, product.bias);
  }
  for (const CpuVariantPlan::Group& group : plan.groups()) {
    product.parts.push_back(make_part(group, target, product, x));
    const Part& part = product.parts.back();
    product.n_out = std::max(product.n_out, outputs_of(part, product.weight));
    if (part.tensor != nullptr && part.codec() == Codec::kRaw) continue;
    product.base_x.insert(product.base_x.end(), part.x.begin(), part.x.end());
    product.base_y.insert(product.base_y.end(), part.y.begin(), part.y.end());
  }
  DELTACOME_CHECK(product.n_out <= target.y.cols());
  return product;
}

/// All targets of one call and the memory between its regions.
class LinearCall {
 public:
  LinearCall(const Runtime& runtime, const CpuVariantPlan& plan, const Tensor& x,
             std::span<const LinearTarget> targets)
      : runtime_(runtime) {
    products_.reserve(targets.size());
    for (const LinearTarget& target : targets) products_.push_back(make_product(plan, target, x));
    allocate_components();
    allocate_rotations();
  }

  void run() {
    rotate_inputs();
    std::vector<Task> first, second;
    int64_t first_work = 0, second_work = 0;
    for (const Product& product : products_) {
      const int64_t tile = product.n_rows() < kWideFromRows ? kOutputTile : kWideOutputTile;
      for (int64_t o = 0; o < product.n_out; o += tile)
        first.push_back({&product, nullptr, nullptr, o, std::min(tile, product.n_out - o)});
      for (const Part& part : product.parts) {
        const int64_t n_in = product.weight.n_in;
        first_work += part.n() * product.n_out * n_in;
        if (part.z.empty()) continue;
        const int64_t rank = part.tensor->rank();
        const int64_t base_rows = part.tensor->format.base_rows;
        first_work += (part.n() + 1) * rank * n_in;
        second_work += (part.n() + 1) * rank * base_rows;
        for (const VariantTensor::Tier& tier : part.tensor->tiers) {
          const int64_t n = tier.v.rows();
          for (int64_t c = 0; c < n; c += kShrinkTile)
            first.push_back({&product, &part, &tier, c, std::min(kShrinkTile, n - c)});
        }
        for (int64_t o = 0; o < base_rows; o += kExpandOutputs)
          second.push_back({&product, &part, nullptr, o, std::min(kExpandOutputs, base_rows - o)});
      }
    }
    run_tasks(first, first_work, [this](const Task& task) {
      task.part == nullptr ? compute_outputs(task) : shrink(task);
    });
    run_tasks(second, second_work, [this](const Task& task) { expand(task); });
  }

 private:
  template <class Body>
  void run_tasks(const std::vector<Task>& tasks, int64_t work, const Body& body) {
    const auto n = static_cast<int64_t>(tasks.size());
    runtime_.pool.parallel_for(n, grain_of(n, work), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(tasks[static_cast<size_t>(i)]);
    });
  }

  void allocate_components() {
    int64_t total = 0;
    const auto each_low_rank = [this](const auto& visit) {
      for (Product& product : products_) {
        for (Part& part : product.parts) {
          if (part.tensor != nullptr && part.codec() == Codec::kLowRank) visit(part);
        }
      }
    };
    each_low_rank([&](Part& part) { total += part.n() * part.tensor->rank(); });
    components_.resize(static_cast<size_t>(total));
    float* next = components_.data();
    each_low_rank([&](Part& part) {
      for (int64_t r = 0; r < part.n(); ++r, next += part.tensor->rank()) part.z.push_back(next);
    });
  }

  /// One rotation per variant and kind of input. A variant has the same index in the parts of every
  /// target.
  void allocate_rotations() {
    const size_t n_groups = products_.empty() ? 0 : products_[0].parts.size();
    std::vector<std::pair<size_t, Part*>> users;  // index of rotation
    for (size_t g = 0; g < n_groups; ++g) {
      const size_t first = rotations_.size();
      for (Product& product : products_) {
        Part& part = product.parts[g];
        if (part.tensor == nullptr || part.codec() != Codec::kVector) continue;
        size_t i = first;
        while (i < rotations_.size() && !rotations_[i].suits(*part.tensor)) ++i;
        if (i == rotations_.size()) rotations_.push_back({part.tensor, part.x, {}});
        users.emplace_back(i, &part);
      }
    }
    int64_t total = 0;
    for (const Rotation& r : rotations_)
      total += static_cast<int64_t>(r.x.size()) * r.tensor->format.n_in();
    rotated_.resize(static_cast<size_t>(total));
    float* next = rotated_.data();
    for (Rotation& r : rotations_) {
      for (size_t i = 0; i < r.x.size(); ++i, next += r.tensor->format.n_in())
        r.rotated.push_back(next);
    }
    for (const auto& [i, part] : users)
      part->rotated.assign(rotations_[i].rotated.begin(), rotations_[i].rotated.end());
  }

  void rotate_inputs() {
    constexpr int64_t kPasses = 12;  // over a row: gains, signs, up to 10 of the transform
    std::vector<std::pair<const Rotation*, size_t>> rows;
    for (const Rotation& rotation : rotations_) {
      for (size_t r = 0; r < rotation.x.size(); ++r) rows.emplace_back(&rotation, r);
    }
    const auto n = static_cast<int64_t>(rows.size());
    const int64_t work = kPasses * static_cast<int64_t>(rotated_.size());
    runtime_.pool.parallel_for(n, grain_of(n, work), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto& [rotation, r] = rows[static_cast<size_t>(i)];
        rotation->apply(r);
      }
    });
  }

  /// Outputs [first, first + count) of all rows, but for low-rank deltas.
  void compute_outputs(const Task& task) const {
    const Product& product = *task.product;
    float* scratch = thread_scratch(std::max(multiply_scratch(), kDenseScratch)).data();
    multiply_within(product.weight, 0, task, product.base_rows(), scratch);
    for (const Part& part : product.parts) {
      if (part.tensor != nullptr) {
        if (part.codec() == Codec::kRaw) {
          multiply_within(part.tensor->raw, 0, task, part.rows(), scratch);
        } else {
          multiply_within(part.tensor->added, product.weight.n_rows, task, part.rows(), scratch);
        }
      }
      for (float* y : part.y) {
        const int64_t end = std::min(task.first + task.count, part.n_bias);
        for (int64_t o = task.first; o < end; ++o) y[o] += part.bias[o];
      }
      if (part.tensor != nullptr && part.codec() == Codec::kDense) add_dense(part, task, scratch);
      if (part.tensor != nullptr && part.codec() == Codec::kVector) add_vector(part, task, scratch);
    }
  }

  /// The rows of `w` that give outputs of the task, if row 0 gives output `offset`.
  void multiply_within(const WeightView& w, int64_t offset, const Task& task, const RowSet& rows,
                       float* scratch) const {
    const int64_t begin = std::max(task.first, offset);
    const int64_t end = std::min(task.first + task.count, offset + w.n_rows);
    if (begin < end)
      multiply(runtime_.kernels, w, begin - offset, end - begin, rows, begin, scratch);
  }

  void add_dense(const Part& part, const Task& task, float* scratch) const {
    const CodedRows& dense = part.tensor->dense;
    const int64_t end = std::min(task.first + task.count, dense.rows());
    for (int64_t o = task.first; o < end; o += kOutputTile)
      multiply_coded(dense, {}, o, std::min(kOutputTile, end - o), part.rows(), o, true, scratch);
  }

  /// y += (rotated rows) x'.
  void add_vector(const Part& part, const Task& task, float* scratch) const {
    const VectorRows& rows = part.tensor->vector;
    const int64_t end = std::min(task.first + task.count, rows.rows());
    for (int64_t o = task.first; o < end; o += kOutputTile) {
      const int64_t count = std::min(kOutputTile, end - o);
      for (int64_t begin = 0; begin < rows.cols(); begin += rows.piece_cols()) {
        const int64_t n = std::min(rows.piece_cols(), rows.cols() - begin);
        rows.decode(runtime_.kernels, {o, count, begin, n}, scratch);
        runtime_.kernels.dot({.x = part.rotated.data(),
                              .x_offset = begin,
                              .n_rows = part.n(),
                              .w = scratch,
                              .w_stride = n,
                              .n_out = count,
                              .k = n,
                              .y = part.y.data(),
                              .y_offset = o,
                              .add = true});
      }
    }
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
    float* scratch = thread_scratch((kShrinkTile + 1) * kInputBlock).data();
    const int64_t at = task.tier->first + task.first;
    multiply_coded(task.tier->v, part.tensor->col_gain, task.first, task.count,
                   {part.x.data(), part.z.data(), part.n()}, at, false, scratch);
    for (float* z : part.z) {
      for (int64_t c = at; c < at + task.count; ++c) z[c] *= part.tensor->s[static_cast<size_t>(c)];
    }
  }

  /// y += U z for outputs [first, first + count).
  void expand(const Task& task) const {
    const Part& part = *task.part;
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

  Runtime runtime_;
  std::vector<Product> products_;
  std::vector<float> components_;  // z of all parts
  std::vector<Rotation> rotations_;
  std::vector<float> rotated_;  // x' of all rotations
};

}  // namespace

void linear(const Runtime& runtime, const CpuVariantPlan& plan, const Tensor& x,
            std::span<const LinearTarget> targets) {
  DELTACOME_CHECK(plan.n_rows() == x.rows());
  LinearCall(runtime, plan, x, targets).run();
}

}  // namespace deltacome::cpu
