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

/// Inputs, and V unless it writes y. Of one token V may run beside what wrote y: the first launch.
void launch_first(const Plan::Call& call, DeltaBuffers buffers, const DeltaLaunch& how) {
  const bool x_is_there = buffers.x_is_there, shrinks = needs_only_x(call.kinds);
  buffers.whole_blocks = how.deterministic;
  buffers.x_is_there = x_is_there && how.one_token;
  if (how.prepares) launch_if(Plan::kInputs, call, buffers, how, launch_inputs, false);
  if (shrinks) launch_if(Plan::kShrink, call, buffers, how, launch_shrink);
  buffers.x_is_there = x_is_there && (call.kinds & Plan::kShrink) == 0;
  launch_if(Plan::kVectorInputs, call, buffers, how, launch_inputs, true);
}

void launch_rest(const Plan::Call& call, DeltaBuffers buffers, const DeltaLaunch& how) {
  buffers.whole_blocks = how.deterministic;
  buffers.x_is_there = false;
  if (!needs_only_x(call.kinds)) launch_if(Plan::kShrink, call, buffers, how, launch_shrink);
  launch_if(Plan::kVectors, call, buffers, how, launch_vectors);
  launch_if(Plan::kPlain, call, buffers, how, launch_plain, false);
  if (how.prepares) launch_if(Plan::kExpand, call, buffers, how, launch_components);
  // Of many variants V beside U costs more than its early beginning saves (docs/benchmarks.md).
  buffers.releases = how.blocks_per_sm > 0;
  // One after another if the order of additions to y matters.
  for (int tier = 0; tier < (how.deterministic ? kTierLaunches : 1); ++tier) {
    buffers.tier = how.deterministic ? tier : -1;
    launch_if(Plan::kExpand, call, buffers, how, launch_expand);
    launch_if(Plan::kPlainExpand, call, buffers, how, launch_plain, true);
  }
}

}  // namespace

PreparedDeltas prepare_deltas(const CudaContext& context, CudaStream& stream,
                              const CudaVariantPlan& plan, const Tensor& x,
                              std::span<const LinearTarget> targets) {
  DELTACOME_CHECK(plan.n_rows() == x.rows() && targets.size() <= kMaxTargets);
  std::vector<int> slots;
  for (const LinearTarget& target : targets) slots.push_back(target.slot);
  PreparedDeltas out;
  out.call = plan.call(slots, x.cols(), stream);
  if (out.empty()) return out;
  out.how = launch_of(context, stream, plan, x.cols());
  out.buffers = plan.buffers(out.call, stream);
  out.buffers.x = f32(x);
  out.buffers.x_stride = x.cols();
  for (size_t i = 0; i < targets.size(); ++i) {
    DELTACOME_CHECK(targets[i].y.rows() == x.rows());
    out.buffers.y[i] = f32(targets[i].y);
    out.buffers.y_stride[i] = targets[i].y.cols();
  }
  return out;
}

void add_deltas(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                const Tensor& x, std::span<const LinearTarget> targets, bool x_is_there) {
  while (!targets.empty()) {
    const auto now = targets.first(std::min<size_t>(targets.size(), kMaxTargets));
    targets = targets.subspan(now.size());
    PreparedDeltas deltas = prepare_deltas(context, stream, plan, x, now);
    if (deltas.empty()) continue;
    deltas.buffers.x_is_there = x_is_there;
    launch_call(deltas.call, deltas.buffers, deltas.how);
    for (const PromptGroup& group : deltas.call.prompts)
      multiply_prompt(context, stream, group, plan.order(), deltas.buffers, x.cols());
    x_is_there = false;
  }
}

bool begin_deltas(Branch& branch, const CudaStream& stream, PreparedDeltas& deltas) {
  const unsigned kinds = deltas.call.kinds;
  if (!needs_only_x(kinds) && (kinds & Plan::kVectorInputs) == 0) return false;
  DeltaLaunch how = deltas.how;
  how.stream = branch.fork(stream).get();
  how.overlaps = false;  // with what is on the other stream
  launch_first(deltas.call, deltas.buffers, how);
  return deltas.begun = true;
}

void finish_deltas(const CudaContext& context, Branch& branch, CudaStream& stream,
                   const CudaVariantPlan& plan, const Tensor& x, PreparedDeltas& deltas) {
  if (deltas.begun) {
    branch.join(stream);
    deltas.how.overlaps = false;
    launch_rest(deltas.call, deltas.buffers, deltas.how);
  } else {
    launch_call(deltas.call, deltas.buffers, deltas.how);
  }
  for (const PromptGroup& group : deltas.call.prompts)
    multiply_prompt(context, stream, group, plan.order(), deltas.buffers, x.cols());
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
          .blocks_per_sm = few ? 3 : 0};
}

void launch_call(const Plan::Call& call, const DeltaBuffers& buffers, const DeltaLaunch& how) {
  launch_first(call, buffers, how);
  launch_rest(call, buffers, how);
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
