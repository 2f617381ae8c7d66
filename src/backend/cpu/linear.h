// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "backend/cpu/runtime.h"
#include "backend/cpu/variant.h"

namespace deltacome::cpu {

/// Backend::linear(). Regions, each over all targets and variants: inputs are rotated and
/// quantized; outputs of the base, raw, dense and vector weights beside z = s * (V x); z is
/// quantized; then y += U z. Codes are multiplied as they are stored, or decoded a tile at a time
/// into the threads' scratch; never a whole matrix.
void linear(const Runtime& runtime, const CpuVariantPlan& plan, const Tensor& x,
            std::span<const LinearTarget> targets);

/// What low-rank and vector codes add to y: linear() without the weights beside them, for
/// benchmarks.
void add_deltas(const Runtime& runtime, const CpuVariantPlan& plan, const Tensor& x,
                std::span<const LinearTarget> targets);

}  // namespace deltacome::cpu
