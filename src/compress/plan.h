// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/host_tensor.h"
#include "core/shape.h"
#include "deltacome/compress.h"
#include "quant/format.h"

namespace deltacome {

/// How a projection [n_out, n_in] is stored under a budget of `bits` per weight, everything
/// included. kCome: the published mix for 4096 (2 components at 8 bits, 32 at 3, the rest at 2)
/// with the two counts scaled by min(n_out, n_in) / 4096, at least one each while the budget holds
/// them, and as many 2-bit components as fit. kLowRank: as many 16-bit components as fit.
/// kBitDelta: one bit and one scale. Throws kInvalidArgument if the budget does not hold a single
/// component, naming the least that does. Ref: Ping et al., Delta-CoMe, arXiv:2406.08903,
/// section 5.1; Liu et al., BitDelta, arXiv:2402.10193.
MatrixFormat plan_projection(Method method, const Shape& shape, double bits, int64_t group);

/// How a tensor of a vision tower or projector is stored: whole (a delta where the base has it), in
/// `bits` per weight, 8 or 16, matrices only.
MatrixFormat plan_vision(const HostTensor& finetuned, int bits, int64_t group);

/// How the delta of an embedding or head is stored: 4 bits in groups along n_in; rows that the base
/// does not have are whole.
MatrixFormat plan_embedding(const Shape& shape, int64_t base_rows, DType dtype, int64_t group);

}  // namespace deltacome
