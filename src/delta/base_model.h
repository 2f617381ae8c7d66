// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "io/archive.h"
#include "io/model_config.h"

namespace deltacome {

/// A base as commands name it: a checkpoint, or a checkpoint and archives, each made over all that
/// is before it. With archives the changed tensors are in memory, in the types of the last
/// fine-tune, and checkpoint.content_hash() is the lineage's (docs/format.md), which does not
/// depend on how sums were rounded.
struct BaseModel {
  Checkpoint checkpoint;
  ModelConfig config;
  std::optional<ParentArchive> parent;  // the last of the archives
};

/// Throws what Checkpoint, Archive and Finetune throw; kUnsupported for a delta that is no archive.
BaseModel open_base(const std::filesystem::path& directory,
                    std::span<const std::filesystem::path> deltas, int n_threads);

/// The same with quantized weights dequantized, for what computes with all values.
BaseModel open_dense_base(const std::filesystem::path& directory,
                          std::span<const std::filesystem::path> deltas, int n_threads);

}  // namespace deltacome
