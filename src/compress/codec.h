// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "backend/compression_ops.h"
#include "io/archive.h"

namespace deltacome {

/// Indices of `values`, the largest first; equal ones in their order.
std::vector<int64_t> largest_first(const std::vector<double>& values);

/// What the projections that share an input know about it: C = sum x x^T over the calibration
/// tokens, and its factor for GPTQ (columns with the most energy first). Without calibration both
/// are empty.
struct InputStatistics {
  Tensor c;  // f64 [n_in, n_in]
  std::unique_ptr<GptqFactor> factor;
};
InputStatistics make_statistics(Backend& backend, Stream& stream, Tensor c);

/// Codes the delta d [n_out, n_in] f64 of one projection as `format` says:
///   kLowRank  components by singular value, V by GPTQ under C, then U by GPTQ under
///             diag(s) V' C V'^T diag(s) of the quantized V' (Delta-CoMe, arXiv:2406.08903, eq. 5)
///   kDense 1  sign and mean magnitude (BitDelta, arXiv:2402.10193)
/// and measures it. d is overwritten. Throws kInternal if the decomposition misses its residual
/// check.
CodedTensor encode_projection(Backend& backend, Stream& stream, const std::string& name,
                              const MatrixFormat& format, const Tensor& d,
                              const InputStatistics& input);

/// Codes an embedding or head: the delta of the base's rows, and the added rows as they are.
CodedTensor encode_embedding(Backend& backend, Stream& stream, const std::string& name,
                             const MatrixFormat& format, const HostTensor& finetuned,
                             const HostTensor& base);

/// Codes a tensor of a vision tower or projector by plan_vision()'s format; `base` null: the base
/// has none.
CodedTensor encode_vision(Backend& backend, Stream& stream, const std::string& name,
                          const MatrixFormat& format, const HostTensor& finetuned,
                          const HostTensor* base);

}  // namespace deltacome
