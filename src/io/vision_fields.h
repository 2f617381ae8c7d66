// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "io/json.h"
#include "io/vision_config.h"

namespace deltacome {

/// Whether a config.json is of the LLaVA form.
bool is_llava(const nlohmann::json& config);

/// The configuration of its language model as one that stands alone, with what transformers' (or
/// the authors') defaults add. Throws kCorrupt, kUnsupported.
nlohmann::json llava_language_config(const nlohmann::json& config, const std::string& where);

/// Its vision tower and projector. Throws kCorrupt (a field missing, of the wrong type or out of
/// range, by name), kUnsupported for another kind of tower, activation or selection of features.
VisionConfig read_vision_config(const nlohmann::json& config, const std::string& where);

}  // namespace deltacome
