// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "backend/backend.h"

namespace deltacome {

/// Memory that grows to the largest size asked of it and is kept between calls.
class ScratchTensor {
 public:
  /// A tensor of undefined contents, valid until the next call.
  Tensor take(Backend& backend, Shape shape, DType dtype = DType::kF32) {
    const int64_t n = element_count(shape);
    if (memory_.empty() || memory_.dtype != dtype || memory_.size() < n) {
      memory_ = {};  // freed first
      memory_ = backend.allocate(dtype, {n});
    }
    return memory_.slice(0, n).reshaped(std::move(shape));
  }

 private:
  Tensor memory_;  // [n]
};

}  // namespace deltacome
