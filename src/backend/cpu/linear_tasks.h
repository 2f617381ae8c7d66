// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "backend/cpu/linear_parts.h"

namespace deltacome::cpu {

/// Components of a task of V, and outputs of one of U.
inline constexpr int64_t kShrinkTile = 32, kExpandOutputs = 128;

/// A piece of a product.
struct Task {
  const Product* product = nullptr;
  const Part* part = nullptr;                 // null: outputs of all parts
  const VariantTensor::Tier* tier = nullptr;  // null: outputs
  int64_t first = 0;                          // output or component
  int64_t count = 0;
  int64_t cost = 0;  // weights times (bits of one and 2 for each row of x)
};

/// The tasks of a linear() call: those of the second stage need results of the first. Tasks that
/// read the same array are side by side, in its order.
struct LinearTasks {
  std::vector<Task> first, second;
};

/// `all`: or only those of deltas that come on top of other weights.
LinearTasks make_tasks(std::span<const Product> products, int n_threads, bool all);

/// Calls body(task) for all of them. A thread takes many that follow one another at a time, and
/// fewer towards the end.
void run_tasks(const Runtime& runtime, std::span<const Task> tasks,
               const std::function<void(const Task&)>& body);

}  // namespace deltacome::cpu
