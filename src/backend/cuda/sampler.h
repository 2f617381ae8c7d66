// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "backend/cuda/context.h"

namespace deltacome::cuda {

/// Backend::sample(). Greedy rows need one pass; rows that are drawn are sorted, so that candidates
/// come in the order of the CPU. Only the tokens come to the host.
void sample(const CudaContext& context, CudaStream& stream, const Tensor& logits,
            std::span<const SampleParams> params, std::span<int32_t> tokens);

}  // namespace deltacome::cuda
