// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "backend/backend.h"
#include "backend/cuda/context.h"
#include "backend/cuda/delta_kernels.h"
#include "backend/cuda/variant_plan.h"

namespace deltacome::cuda {

/// Adds each row's delta to the targets' y: y += (U diag(s) V) x from the packed codes; columns of
/// rows that a variant added, and rows of raw tensors, are replaced (a raw tensor takes the bias
/// with it: add that after this). x [n_rows, n_in], y [n_rows, >= n_out] f32. Stream-ordered; no
/// host synchronization, capturable once the plan knows the call.
/// `x_is_there`: see BaseLinear::run(), which was called just before.
void add_deltas(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                const Tensor& x, std::span<const LinearTarget> targets, bool x_is_there = false);

/// How the calls of a plan are launched, and the launches of one call.
DeltaLaunch launch_of(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                      int64_t n_in);
void launch_call(const CudaVariantPlan::Call& call, DeltaBuffers buffers, const DeltaLaunch& how);

/// y[i] += delta row ids[i] of row i's variant, or = the row that replaces the base's or that only
/// the variant has. ids [n_rows] i32 in device memory (see CudaVariantPlan::check_ids()), y
/// [n_rows, hidden] f32.
void embed_deltas(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                  int slot, const int32_t* ids, const Tensor& y);

}  // namespace deltacome::cuda
