// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "io/model_config.h"
#include "io/safetensors.h"

namespace deltacome {

/// The configuration of a named shape: "1b" (Llama-3.2-1B) or "7b" (Llama-2-7B). n_layers and
/// vocab_size 0 = those of the shape. Throws kInvalidArgument for another name.
ModelConfig synthetic_config(const std::string& shape, int64_t n_layers, int64_t vocab_size = 0);

/// Random bf16 weights of a configuration, in memory. The values do not matter but for being
/// finite and small. n_threads 0 = one per core.
Checkpoint synthetic_checkpoint(const ModelConfig& config, uint64_t seed = 1, int n_threads = 0);

/// How a projection of a random delta is stored, at about `bits` bits a weight.
/// Throws kInvalidArgument for an unknown kind.
MatrixFormat synthetic_format(const std::string& kind, double bits, const Shape& shape);

/// What a random delta is.
struct SyntheticDelta {
  std::string kind;
  double bits = 1;          // of the projections
  bool vocabulary = false;  // embedding and head too, as `auto` stores them
  uint64_t seed = 1;
};

/// Calls `take` with the slot, in expected_tensors(), and the random codes of every tensor.
void make_synthetic_delta(
    const ModelConfig& config, const SyntheticDelta& delta,
    const std::function<void(int slot, const MatrixFormat& format, HostTensor blob)>& take);

/// The same in memory of a backend.
struct SyntheticVariant {
  std::shared_ptr<DeviceVariant> device;
  int64_t bytes = 0;  // of the blobs
};
SyntheticVariant synthetic_variant(Backend& backend, Stream& stream, const ModelConfig& config,
                                   const SyntheticDelta& delta);

}  // namespace deltacome
