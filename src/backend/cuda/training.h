// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "backend/cuda/context.h"
#include "backend/training_ops.h"

namespace deltacome::cuda {

/// The ops of distillation on the GPU. Products of matrices round their operands to TF32 (10 bits
/// of mantissa) and add in f32; attention is f32 throughout. Results are the same in every run on
/// one kind of device. `order` outlives the result.
std::unique_ptr<TrainingOps> create_training_ops(const CudaContext& context, StreamOrder& order);

}  // namespace deltacome::cuda
