// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "compress/codec.h"

namespace deltacome {

/// One point of a distillation.
struct DistillPoint {
  int64_t step = 0;
  double seconds = 0;
  double training_kl = 0, held_back_kl = -1;
};

/// Where a distillation is; what it needs to go on.
struct DistillState {
  int64_t step = 0;
  std::vector<float> values, first_moments, second_moments, best;
  double best_kl = -1;
  std::vector<DistillPoint> curve;
};

/// A state as tensors of a part, so that it is kept like everything else of an unfinished run.
std::vector<CodedTensor> pack_state(const DistillState& state);
DistillState unpack_state(const std::vector<CodedTensor>& tensors);

}  // namespace deltacome
