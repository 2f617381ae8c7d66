// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace deltacome {

/// One matrix of an adapter to write: delta = B A.
struct LoraFactors {
  std::string name;      // of the base's tensor: "model.layers.0.self_attn.q_proj.weight"
  std::vector<float> a;  // [rank, n_in]
  std::vector<float> b;  // [n_out, rank]
  int64_t n_in = 0, n_out = 0;
};

/// Writes adapter_config.json and adapter_model.safetensors of PEFT's plain LoRA into an existing
/// directory; alpha = rank, so that nothing is scaled. All matrices have the rank. Returns the
/// bytes of both files. Throws kIo, kUnsupported for values that `dtype` cannot hold.
int64_t write_peft_adapter(const std::filesystem::path& directory, const std::string& base_name,
                           int64_t rank, DType dtype, const std::vector<LoraFactors>& factors);

}  // namespace deltacome
