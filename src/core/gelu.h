// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace deltacome {

/// The forms of GELU that vision towers and projectors use.
enum class Gelu : uint8_t {
  kExact,  // x Phi(x)                                   "gelu"
  kTanh,   // x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))  "gelu_pytorch_tanh", "gelu_new"
  kQuick,  // x / (1 + exp(-1.702 x))                    "quick_gelu"
};

}  // namespace deltacome
