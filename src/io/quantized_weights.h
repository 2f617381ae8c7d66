// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "core/host_tensor.h"
#include "quant/quantized_matrix.h"

namespace deltacome {

/// A weight that a checkpoint holds as codes.
struct QuantizedWeight {
  Shape shape;                // [n_out, n_in]
  DType dtype = DType::kF16;  // that the checkpoint computes in
  std::string scheme;         // "GPTQ, 4 bits, groups of 128"
  /// Unpacks the codes. Throws kCorrupt for values that make no matrix (scales that are not
  /// finite, groups that do not exist).
  std::function<QuantizedMatrix()> read;
};

/// By the name that the weight has in a checkpoint of full precision.
using QuantizedWeights = std::map<std::string, QuantizedWeight>;

/// Takes the parts of quantized weights out of a checkpoint's tensors, by quantization_config of
/// config.json (or the quantize_config.json of older GPTQ checkpoints): GPTQ, AWQ,
/// compressed-tensors, bitsandbytes and block-wise fp8; docs/formats.md has the formulas. Empty if
/// the directory has no such configuration. Untrusted: throws kUnsupported naming the field of a
/// scheme that is not read, kCorrupt for parts that are missing or of a wrong type or shape.
QuantizedWeights take_quantized_weights(const std::filesystem::path& directory,
                                        std::map<std::string, HostTensor>& tensors);

}  // namespace deltacome
