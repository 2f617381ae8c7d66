// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cpu/runtime.h"
#include "backend/training_ops.h"

namespace deltacome::cpu {

/// See TrainingOps. Where no token is outside of the k, or rounding puts sum p_i above 1, p is
/// normalized and t = 0.
double kl_gradient(const Runtime& runtime, const Tensor& logits, int64_t n_vocab, const Tensor& ids,
                   const Tensor& log_p, const Tensor& weights);

}  // namespace deltacome::cpu
