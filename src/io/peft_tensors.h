// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "core/check.h"
#include "core/shape.h"
#include "io/json.h"

namespace deltacome {

/// How PEFT names the tensors of an adapter: kPeftPrefix, the module's name, then one of kLoraA and
/// kLoraB, or ".weight" or ".bias" for a tensor that is stored whole.
inline constexpr std::string_view kPeftPrefix = "base_model.model.";
inline constexpr std::string_view kLoraA = ".lora_A.weight";
inline constexpr std::string_view kLoraB = ".lora_B.weight";
inline constexpr const char* kPeftConfigName = "adapter_config.json";

[[noreturn]] inline void fail_peft_shape(const std::string& where, const std::string& name,
                                         const Shape& got, const Shape& want,
                                         std::string_view because) {
  fail(ErrorCode::kMismatch, "{}: tensor {} has shape {}, expected {}{}", where, quote(name),
       to_string(got), to_string(want), because);
}

}  // namespace deltacome
