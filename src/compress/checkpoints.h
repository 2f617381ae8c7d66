// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "deltacome/compress.h"
#include "io/archive.h"
#include "io/model_config.h"
#include "io/safetensors.h"

namespace deltacome {

/// A base and its fine-tune, checked to be of one architecture: every tensor of one is in the other
/// with the same shape, but for vocabulary rows; all values are finite.
struct CheckpointPair {
  Checkpoint base, finetuned;
  ModelConfig base_config, finetuned_config;
  std::vector<ExpectedTensor> tensors;         // of the base; a tensor's index is its slot
  std::vector<ExpectedTensor> vision_tensors;  // of the fine-tune; the base may lack them
  std::string base_hash, finetuned_hash;
  std::optional<ParentArchive> parent;  // of a base that is a base and archives
  std::string base_quantization;        // Checkpoint::scheme() of the base; `base` is dequantized
};

/// Throws kMismatch for tensors or settings that differ (by name, with both values), kCorrupt for
/// NaN or infinity (by tensor), and what the readers throw.
CheckpointPair open_pair(const CompressOptions& options);

/// Throws kMismatch unless a checkpoint has exactly these tensors, but for ones that nothing reads,
/// kUnsupported for other types than BF16, F16 and F32.
void expect_tensors(const Checkpoint& checkpoint, const std::vector<ExpectedTensor>& expected);

/// Gives back the mapped pages of a layer's tensors; layer -1: of embedding, final norm and head.
/// They are read again from the page cache when they are wanted.
void release_layer(const Checkpoint& checkpoint, const std::vector<ExpectedTensor>& tensors,
                   int64_t layer);

/// True if both tensors have the same values.
bool equal_values(const HostTensor& a, const HostTensor& b);

}  // namespace deltacome
