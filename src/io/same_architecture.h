// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "io/model_config.h"

namespace deltacome {

/// Compares everything that changes what the forward pass computes with given weights. Throws
/// kMismatch naming the setting and both values.
void check_same_architecture(const ModelConfig& base, const ModelConfig& finetuned);

}  // namespace deltacome
