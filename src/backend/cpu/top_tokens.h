// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cpu/runtime.h"
#include "backend/training_ops.h"

namespace deltacome::cpu {

/// See TrainingOps.
void top_tokens(const Runtime& runtime, const Tensor& logits, int64_t n_vocab, const Tensor& ids,
                const Tensor& log_p);

}  // namespace deltacome::cpu
