// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "backend/backend.h"
#include "io/archive.h"
#include "io/model_config.h"

namespace deltacome {

/// Puts an archive's tensors, packed as they are, into a backend's memory, each at its slot: its
/// index in expected_tensors(base). Every blob's hash is checked on the way. All or nothing: throws
/// kCorrupt, and kMismatch for a tensor that the base does not have or with a shape that does not
/// fit it.
std::shared_ptr<DeviceVariant> load_variant(Backend& backend, Stream& stream,
                                            const Archive& archive, const ModelConfig& base);

}  // namespace deltacome
