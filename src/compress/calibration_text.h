// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compress/checkpoints.h"
#include "deltacome/compress.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace deltacome {

/// The calibration text of a run, and what its user should know about it.
struct CalibrationText {
  std::vector<std::vector<TokenId>> sequences;
  int64_t n_tokens = 0;
  Tensor given;  // rows that ids below 0 stand for; empty without pictures
  std::vector<std::string> notes;
};

/// Names of the run's calibration text, as the archive keeps them.
std::vector<std::string> calibration_names(const CompressOptions& options);

/// Reads the calibration files. The method `auto` also looks whether they are of the fine-tune's
/// kind, and lets the fine-tune write the text if there are none. Throws kInvalidArgument for files
/// without text. on_progress(stage).
CalibrationText prepare_calibration(const CompressOptions& options, const CheckpointPair& pair,
                                    const Model& base, Stream& stream,
                                    const std::function<void(const std::string&)>& on_progress);

}  // namespace deltacome
