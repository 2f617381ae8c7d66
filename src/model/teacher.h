// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/model.h"

namespace deltacome {

/// What a teacher thinks comes next: at every position its k most likely tokens.
struct TopTargets {
  int64_t k = 0;
  std::vector<int32_t> ids;  // [n_positions, k], most likely first; of equals the smaller id
  std::vector<float> log_p;  // [n_positions, k] log softmax
};

/// Targets of every position of every sequence, the last token's too: n tokens, n positions.
/// `vocab_limit`: tokens that the student has; probabilities are among the teacher's tokens below
/// it (0 = all), and k is at most their number. Log softmax in float64. `given`: rows that ids
/// below 0 stand for. on_progress(sequences done). Throws as Model::forward.
TopTargets top_targets(const Model& model, const Variant& variant, Stream& stream,
                       std::span<const std::vector<int32_t>> sequences, int64_t k,
                       int64_t vocab_limit = 0,
                       const std::function<void(int64_t)>& on_progress = {},
                       const Tensor& given = {});

}  // namespace deltacome
