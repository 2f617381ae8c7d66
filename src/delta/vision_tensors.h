// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "backend/backend.h"
#include "io/archive.h"
#include "io/model_config.h"

namespace deltacome {

/// The vision tower and projector of an archive's fine-tune, decoded: what the archive holds
/// (whole, or as deltas of what the base has), and for the rest the base's own. `config` is the
/// fine-tune's; without vision they are empty. read: the bytes of a blob. Throws kMismatch naming a
/// tensor that neither has or whose shape is not the configuration's.
Checkpoint vision_tensors(Backend& backend, Stream& stream, const Archive& archive,
                          const Checkpoint& base, const ModelConfig& config,
                          const std::function<HostTensor(const ArchiveTensor&)>& read);

}  // namespace deltacome
