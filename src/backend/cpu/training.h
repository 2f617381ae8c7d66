// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "backend/cpu/runtime.h"
#include "backend/training_ops.h"

namespace deltacome::cpu {

/// The ops of distillation on the CPU: OpenBLAS for products, own kernels for the rest. Results are
/// the same in every run with the same number of threads. What `runtime` refers to must outlive the
/// result.
std::unique_ptr<TrainingOps> create_training_ops(const Runtime& runtime);

}  // namespace deltacome::cpu
