// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "backend/backend.h"
#include "compress/checkpoints.h"
#include "deltacome/compress.h"

namespace deltacome {

const char* method_name(Method method);
/// Throws kInvalidArgument for options that make no sense, naming the option.
void check_options(const CompressOptions& options);
/// One line per thing that the coded bytes depend on.
std::string identity_of(const CompressOptions& options, const CheckpointPair& pair,
                        const Backend& backend);
/// As asked for, or 65,536; of auto 131,072 (balanced) and 262,144 (best), for steps of
/// distillation that go over their text about three times.
int64_t calibration_tokens(const CompressOptions& options);
bool is_on_gpu(const CompressOptions& options);
int thread_count(const CompressOptions& options);
/// Products of a forward pass, a token: of weights and of attention.
double products_per_token(const CheckpointPair& pair);
/// Steps of distillation that fit the minutes asked for on a machine of kNominalRate: the same
/// on every run, so that bytes are. 0 = none.
int64_t distillation_steps(const CompressOptions& options, const CheckpointPair& pair);

}  // namespace deltacome
