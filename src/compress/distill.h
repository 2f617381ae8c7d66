// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "compress/delta_weights.h"
#include "compress/distill_state.h"
#include "compress/taught_text.h"
#include "model/backward.h"

namespace deltacome {

struct DistillOptions {
  int64_t steps = 0;
  int64_t tokens_per_step = kStepTokens;
  float rate = 1e-2F;        // of gains and singular values, which are factors around 1
  float norm_rate = 1e-3F;   // of norms
  uint64_t seed = 0;         // which sequences when
  double limit_s = 1e30;     // ends before the next step when that much time is over
  double save_every_s = 20;  // least time between two saves but the last
};

/// Trains the parameters of `weights` by Adam on KL against the fine-tune's logits, codes fixed;
/// rate by a short warm-up, then a cosine. Ends with the parameters that were best on `held_back`,
/// which it never trains on, its passages weighed by certainty: before the first step, some times
/// on the way, and at the end. Starts from `state` if it holds a step; `save` is called now and
/// then with a state to go on from.
/// Deterministic but for the time limit.
void distill(DeltaWeights& weights, BackwardPass& pass, Backend& backend, Stream& stream,
             const TaughtText& training, const TaughtText& held_back, const DistillOptions& options,
             DistillState& state, const std::function<void(const DistillState&)>& save);

}  // namespace deltacome
