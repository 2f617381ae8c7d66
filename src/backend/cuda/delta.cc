// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta.h"

#include <algorithm>
#include <vector>

#include "backend/cuda/delta_kernels.h"
#include "core/check.h"

namespace deltacome::cuda {
namespace {

using Plan = CudaVariantPlan;

/// Whether V is all that is multiplied with x as codes of tiles.
bool needs_only_x(unsigned kinds) {
  return (kinds & Plan::kShrink) != 0 && (kinds & Plan::kDense) == 0;
}

template <class Launcher, class... More>
void launch_if(unsigned needed, const Plan::Call& call, const DeltaBuffers& buffers,
               const DeltaLaunch& how, Launcher launcher, More... more) {
  if ((call.kinds & needed) != 0) DELTACOME_CUDA_CHECK(launcher(call.table, buffers, more..., how));
}

void launch_shrinks(const Plan::Call& call, const DeltaBuffers& buffers, const DeltaLaunch& how) {
  if (how.prepares) launch_if(Plan::kInputs, call, buffers, how, launch_inputs, false);
  launch_if(Plan::kShrink, call, buffers, how, launch_shrink);
}

}  // namespace

DeltaSum::DeltaSum(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                   const Tensor& x, std::span<const LinearTarget> targets)
    : context_(context), stream_(stream), plan_(plan), x_(x), targets_(targets) {
  DELTACOME_CHECK(plan.n_rows() == x.rows());
}

DeltaSum::Part DeltaSum::part_of(std::span<const LinearTarget> targets) const {
  std::vector<int> slots;
  for (const LinearTarget& target : targets) slots.push_back(target.slot);
  Part part{plan_.call(slots, x_.cols(), stream_), {}};
  if (part.call.kinds == 0 && part.call.prompts.empty()) return part;
  part.buffers = plan_.buffers(part.call, stream_);
  part.buffers.x = f32(x_);
  part.buffers.x_stride = x_.cols();
  for (size_t i = 0; i < targets.size(); ++i) {
    DELTACOME_CHECK(targets[i].y.rows() == x_.rows());
    part.buffers.y[i] = f32(targets[i].y);
    part.buffers.y_stride[i] = targets[i].y.cols();
  }
  return part;
}

bool DeltaSum::start() {
  // z of a call is zeroed by the call before, so that only one can be on its way.
  if (targets_.size() > kMaxTargets) return false;
  started_ = part_of(targets_);
  return launch_of_x(started_->call, started_->buffers, launch_of(context_, stream_, plan_, x_.cols()));
}

void DeltaSum::finish() {
  const DeltaLaunch how = launch_of(context_, stream_, plan_, x_.cols());
  for (size_t first = 0; first < targets_.size(); first += kMaxTargets) {
    Part part;
    if (started_) {
      part = *started_;
    } else {
      part =
          part_of(targets_.subspan(first, std::min<size_t>(targets_.size() - first, kMaxTargets)));
      launch_of_x(part.call, part.buffers, how);
    }
    launch_of_y(part.call, part.buffers, how);
    for (const PromptGroup& group : part.call.prompts)
      multiply_prompt(context_, stream_, group, plan_.order(), part.buffers, x_.cols());
  }
  started_.reset();
}

DeltaLaunch launch_of(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                      int64_t n_in) {
  // Up to so many rows launches cost more than quantizing the same numbers in many warps.
  constexpr int64_t kFewRows = 8;
  const bool few = plan.n_rows() <= kFewRows;
  const int token_tiles = (plan.segment_tokens() + kMaxTokens - 1) / kMaxTokens;
  const bool one_token = plan.segment_tokens() == 1 && !context.deterministic;
  const bool whole_tiles = token_tiles == 1 && n_in % kTileCols == 0;
  return {.stream = stream.get(),
          .n_sms = context.n_sms,
          .token_tiles = token_tiles,
          // Pays for few rows; beyond 8 with prepared inputs it costs (docs/benchmarks.md).
          .overlaps = context.overlaps && token_tiles <= 2,
          .one_token = one_token,
          .prepares = !one_token && (context.deterministic || !few || !whole_tiles),
          .deterministic = context.deterministic,
          .blocks_per_sm = few ? 2 : 0};
}

bool launch_of_x(const Plan::Call& call, DeltaBuffers buffers, const DeltaLaunch& how) {
  if (!needs_only_x(call.kinds)) return false;
  buffers.whole_blocks = how.deterministic;
  launch_shrinks(call, buffers, how);
  return how.one_token;
}

void launch_of_y(const Plan::Call& call, DeltaBuffers buffers, const DeltaLaunch& how) {
  buffers.whole_blocks = how.deterministic;
  launch_if(Plan::kVectorInputs, call, buffers, how, launch_inputs, true);
  launch_if(Plan::kVectors, call, buffers, how, launch_vectors);
  launch_if(Plan::kPlain, call, buffers, how, launch_plain, false);
  if (!needs_only_x(call.kinds)) launch_shrinks(call, buffers, how);
  if (how.prepares) launch_if(Plan::kExpand, call, buffers, how, launch_components);
  // One after another if the order of additions to y matters.
  for (int tier = 0; tier < (how.deterministic ? kTierLaunches : 1); ++tier) {
    buffers.tier = how.deterministic ? tier : -1;
    launch_if(Plan::kExpand, call, buffers, how, launch_expand);
    launch_if(Plan::kPlainExpand, call, buffers, how, launch_plain, true);
  }
}

void add_deltas(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                const Tensor& x, std::span<const LinearTarget> targets) {
  DeltaSum(context, stream, plan, x, targets).finish();
}

void embed_deltas(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                  int slot, const int32_t* ids, const Tensor& y) {
  DELTACOME_CHECK(plan.n_rows() == y.rows());
  const WorkList<EmbeddingSegment>* list = plan.embedding(slot, stream);
  if (list == nullptr) return;
  DELTACOME_CUDA_CHECK(launch_embedding(*list, ids, plan.rows(), y.cols(), f32(y),
                                        launch_of(context, stream, plan, y.cols())));
}

}  // namespace deltacome::cuda
