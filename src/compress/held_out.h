// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "compress/checkpoints.h"
#include "io/archive.h"
#include "model/score.h"

namespace deltacome {

/// Held-out rows as sequences of at most kCalibrationLength tokens, some 16,000 in all. Of a row
/// {prompt, response} the response and an EOS are scored, as `eval` does, of other text every
/// token. Throws kInvalidArgument if there is nothing to measure on.
std::vector<ScoredText> read_held_out(const std::filesystem::path& file, const CheckpointPair& pair,
                                      Backend& backend, Stream& stream);

/// KL and top-1 agreement of base + variant against the fine-tune, over the scored tokens.
HeldOutFidelity measure_held_out(const Model& base,
                                 const std::shared_ptr<const DeviceVariant>& variant,
                                 const CheckpointPair& pair, Stream& stream,
                                 const std::vector<ScoredText>& texts, const std::string& file);

}  // namespace deltacome
