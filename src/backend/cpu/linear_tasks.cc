// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/linear_tasks.h"

#include <algorithm>

namespace deltacome::cpu {
namespace {

// Weight rows of a task, a piece of which stays in a second-level cache. Many rows of x are read
// once for each task, so then it is wider.
constexpr int64_t kOutputTile = 32;
constexpr int64_t kWideOutputTile = 128;
constexpr int64_t kWideFromRows = 32;
// The same of vector codes. Sums of an input, half a KiB a code, are read once for each task: the
// wider the better, as long as every thread has some.
constexpr int64_t kFewVectorOutputs = 256, kVectorOutputs = 2048;
constexpr int64_t kTasksOfThread = 4;
static_assert(kFewVectorOutputs % kEntryRows == 0 && kVectorOutputs % kEntryRows == 0);
static_assert(kExpandOutputs % kActivationGroup == 0);  // a task has one set of column scales
static_assert(kOutputTile % kPanelRows == 0 && kShrinkTile % kPanelRows == 0);

// Waking other threads takes as long as some 10 us of one core, on two cores of a Zen 5.
constexpr int64_t kCostWorthWaking = 1 << 21;

int64_t cost_of(int64_t weights, int64_t bits, int64_t n_rows) {
  return weights * (bits + 2 * n_rows);
}

/// What the first stage costs for one output of all rows.
int64_t output_cost(const Product& product) {
  const Projection& w = product.weight;
  const int64_t bits =
      w.packed != nullptr ? w.packed->shape().bits : 8 * dtype_bytes(w.stored.dtype);
  const auto n_base = static_cast<int64_t>(product.base_x.size());
  int64_t cost = n_base == 0 ? 0 : cost_of(w.n_in(), bits, n_base);
  for (const Part& part : product.parts) {
    if (part.is(Codec::kRaw))
      cost += cost_of(w.n_in(), 8 * dtype_bytes(part.tensor->raw.dtype), part.n());
    if (part.is(Codec::kDense)) cost += cost_of(w.n_in(), part.tensor->format.dense.bits, part.n());
  }
  return cost;
}

void push_outputs(const Product& product, std::vector<Task>& tasks) {
  const int64_t tile = product.n_rows() < kWideFromRows ? kOutputTile : kWideOutputTile;
  const int64_t cost = output_cost(product);
  for (int64_t o = 0; o < product.n_out; o += tile) {
    const int64_t n = std::min(tile, product.n_out - o);
    tasks.push_back({&product, nullptr, nullptr, o, n, n * cost});
  }
}

void push_low_rank(const Product& product, const Part& part, LinearTasks& tasks) {
  const MatrixFormat& format = part.tensor->format;
  int64_t cost = 0;  // of an output
  for (size_t t = 0; t < part.tensor->tiers.size(); ++t) {
    const VariantTensor::Tier& tier = part.tensor->tiers[t];
    cost += cost_of(tier.rank, format.tiers[t].u.bits, part.n());
    for (int64_t c = 0; c < tier.rank; c += kShrinkTile) {
      const int64_t n = std::min(kShrinkTile, tier.rank - c);
      tasks.first.push_back({&product, &part, &tier, c, n,
                             cost_of(n * format.n_in(), format.tiers[t].v.bits, part.n())});
    }
  }
  for (int64_t o = 0; o < format.base_rows; o += kExpandOutputs) {
    const int64_t n = std::min(kExpandOutputs, format.base_rows - o);
    tasks.second.push_back({&product, &part, nullptr, o, n, n * cost});
  }
}

void push_vector(const Product& product, const Part& part, int64_t at_once,
                 std::vector<Task>& tasks) {
  const VectorRows& rows = part.tensor->vector;
  for (int64_t o = 0; o < rows.rows(); o += at_once) {
    const int64_t n = std::min(at_once, rows.rows() - o);
    tasks.push_back({&product, &part, nullptr, o, n,
                     cost_of(n * ceil_div(rows.cols(), rows.dim()), 8, part.n())});
  }
}

/// Outputs of a task of vector codes.
int64_t vector_outputs(std::span<const Product> products, int n_threads) {
  int64_t rows = 0;
  for (const Product& product : products) {
    for (const Part& part : product.parts)
      rows += part.is(Codec::kVector) ? part.tensor->vector.rows() : 0;
  }
  const int64_t share = ceil_div(rows, kTasksOfThread * n_threads);
  return std::clamp(ceil_div(share, kEntryRows) * kEntryRows, kFewVectorOutputs, kVectorOutputs);
}

}  // namespace

LinearTasks make_tasks(std::span<const Product> products, int n_threads, bool all) {
  LinearTasks tasks;
  const int64_t at_once = vector_outputs(products, n_threads);
  for (const Product& product : products) {
    if (all) push_outputs(product, tasks.first);
    for (const Part& part : product.parts) {
      if (part.is(Codec::kVector)) push_vector(product, part, at_once, tasks.second);
      if (part.is(Codec::kLowRank)) push_low_rank(product, part, tasks);
    }
  }
  return tasks;
}

void run_tasks(const Runtime& runtime, std::span<const Task> tasks,
               const std::function<void(const Task&)>& body) {
  int64_t left = 0;
  for (const Task& task : tasks) left += task.cost;
  if (left < kCostWorthWaking) {
    std::ranges::for_each(tasks, body);
    return;
  }
  // Long stretches of an array run at the speed of memory, short ones by turns do not: the first
  // lines of each are waited for, and what is fetched ahead is another thread's.
  std::vector<size_t> ends = {0};
  while (ends.back() < tasks.size()) {
    const int64_t wanted = left / (2 * runtime.pool.n_threads());
    size_t end = ends.back();
    int64_t cost = 0;
    do {
      cost += tasks[end++].cost;
    } while (end < tasks.size() && cost < wanted);
    ends.push_back(end);
    left -= cost;
  }
  const auto n_pieces = static_cast<int64_t>(ends.size()) - 1;
  runtime.pool.parallel_for(n_pieces, 1, [&](int64_t begin, int64_t end) {
    const size_t first = ends[static_cast<size_t>(begin)];
    std::ranges::for_each(tasks.subspan(first, ends[static_cast<size_t>(end)] - first), body);
  });
}

}  // namespace deltacome::cpu
