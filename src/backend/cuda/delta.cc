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

}  // namespace

void add_deltas(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                const Tensor& x, std::span<const LinearTarget> targets, bool x_is_there) {
  DELTACOME_CHECK(plan.n_rows() == x.rows());
  const DeltaLaunch how = launch_of(context, stream, plan, x.cols());
  while (!targets.empty()) {
    const auto now = targets.first(std::min<size_t>(targets.size(), kMaxTargets));
    targets = targets.subspan(now.size());
    std::vector<int> slots;
    for (const LinearTarget& target : now) slots.push_back(target.slot);
    const Plan::Call call = plan.call(slots, x.cols(), stream);
    if (call.kinds == 0 && call.prompts.empty()) continue;
    DeltaBuffers buffers = plan.buffers(call, stream);
    buffers.x = f32(x);
    buffers.x_stride = x.cols();
    buffers.x_is_there = x_is_there;
    for (size_t i = 0; i < now.size(); ++i) {
      DELTACOME_CHECK(now[i].y.rows() == x.rows());
      buffers.y[i] = f32(now[i].y);
      buffers.y_stride[i] = now[i].y.cols();
    }
    launch_call(call, buffers, how);
    for (const PromptGroup& group : call.prompts)
      multiply_prompt(context, stream, group, plan.order(), buffers, x.cols());
    x_is_there = false;
  }
}

DeltaLaunch launch_of(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                      int64_t n_in) {
  // Up to so many rows launches cost more than quantizing the same numbers in many warps.
  constexpr int64_t kFewRows = 8;
  // Up to so many rows the codes of the next kernel are better on their way beside this one than
  // this one on all of an SM.
  constexpr int64_t kFewestRows = 2;
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
          .blocks_per_sm = plan.n_rows() <= kFewestRows ? 3 : 0};
}

void launch_call(const Plan::Call& call, DeltaBuffers buffers, const DeltaLaunch& how) {
  buffers.whole_blocks = how.deterministic;
  // What only x is needed for may run beside what wrote y: the first one.
  const bool x_is_there = buffers.x_is_there, shrinks = (call.kinds & Plan::kShrink) != 0;
  buffers.x_is_there = x_is_there && how.one_token && needs_only_x(call.kinds);
  if (how.prepares) launch_if(Plan::kInputs, call, buffers, how, launch_inputs, false);
  launch_if(Plan::kShrink, call, buffers, how, launch_shrink);
  buffers.x_is_there = x_is_there && !shrinks;
  launch_if(Plan::kVectorInputs, call, buffers, how, launch_inputs, true);
  buffers.x_is_there = false;
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

void embed_deltas(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                  int slot, const int32_t* ids, const Tensor& y) {
  DELTACOME_CHECK(plan.n_rows() == y.rows());
  const WorkList<EmbeddingSegment>* list = plan.embedding(slot, stream);
  if (list == nullptr) return;
  DELTACOME_CUDA_CHECK(launch_embedding(*list, ids, plan.rows(), y.cols(), f32(y),
                                        launch_of(context, stream, plan, y.cols())));
}

}  // namespace deltacome::cuda
