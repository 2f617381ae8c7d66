// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/host_tensor.h"
#include "io/model_config.h"

namespace deltacome {

/// Phi-3's checkpoints hold the rows of q, k and v as one tensor "qkv_proj", those of gate and up
/// as "gate_up_proj". Here both are what expected_tensors() has: views of the same bytes.
/// Tensors without such names are left as they are. Throws kMismatch if rows are not as many as
/// the configuration in `directory` says, kUnsupported for such projections in low precision, and
/// what read_model_config() throws.
void split_fused_projections(std::map<std::string, HostTensor>& tensors,
                             const std::filesystem::path& directory);

/// Whether checkpoints of the architecture hold such tensors.
bool has_fused_projections(const ModelConfig& config);

/// The names of the tensors whose rows a fused one holds, in their order; empty for other names.
std::vector<std::string> fused_parts(const std::string& name);

/// A tensor as a checkpoint of the architecture stores it: expected_tensors()[i] for all i of
/// `parts`, one after another by rows.
struct StoredTensor {
  std::string name;
  Shape shape;
  std::vector<size_t> parts;
};
std::vector<StoredTensor> stored_tensors(const ModelConfig& config);

}  // namespace deltacome
