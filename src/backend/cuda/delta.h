// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
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
class DeltaSum {
 public:
  DeltaSum(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
           const Tensor& x, std::span<const LinearTarget> targets);
  /// What needs only x, if y is still to be written. True: a kernel that begins early behind it
  /// begins when x is there, and has to wait for it before it ends.
  bool start();
  /// The rest: y holds W x (+ b).
  void finish();

 private:
  struct Part {  // of at most kMaxTargets targets
    CudaVariantPlan::Call call;
    DeltaBuffers buffers;
  };
  Part part_of(std::span<const LinearTarget> targets) const;

  const CudaContext& context_;
  CudaStream& stream_;
  const CudaVariantPlan& plan_;
  const Tensor& x_;
  std::span<const LinearTarget> targets_;
  std::optional<Part> started_;
};
/// Both, to y that is there.
void add_deltas(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                const Tensor& x, std::span<const LinearTarget> targets);

/// How the calls of a plan are launched, and the launches of one call: those that need only x, and
/// those that need y. launch_of_x(): see DeltaSum::start().
DeltaLaunch launch_of(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                      int64_t n_in);
bool launch_of_x(const CudaVariantPlan::Call& call, DeltaBuffers buffers, const DeltaLaunch& how);
void launch_of_y(const CudaVariantPlan::Call& call, DeltaBuffers buffers, const DeltaLaunch& how);

/// y[i] += delta row ids[i] of row i's variant, or = the row that replaces the base's or that only
/// the variant has. ids [n_rows] i32 in device memory (see CudaVariantPlan::check_ids()), y
/// [n_rows, hidden] f32.
void embed_deltas(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                  int slot, const int32_t* ids, const Tensor& y);

}  // namespace deltacome::cuda
