// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta.h"

#include <algorithm>
#include <vector>

#include "backend/cuda/delta_kernels.h"
#include "core/check.h"

namespace deltacome::cuda {
namespace {

void add_to(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
            const Tensor& x, std::span<const LinearTarget> targets) {
  using Plan = CudaVariantPlan;
  std::vector<int> slots;
  for (const LinearTarget& target : targets) slots.push_back(target.slot);
  const Plan::Call call = plan.call(slots, x.cols(), stream);
  if (call.kinds == 0 && call.prompts.empty()) return;
  DeltaBuffers buffers = plan.buffers(call, stream);
  buffers.x = f32(x);
  buffers.x_stride = x.cols();
  for (size_t i = 0; i < targets.size(); ++i) {
    DELTACOME_CHECK(targets[i].y.rows() == x.rows());
    buffers.y[i] = f32(targets[i].y);
    buffers.y_stride[i] = targets[i].y.cols();
  }
  launch_call(call, buffers, launch_of(context, stream, plan));
  for (const PromptGroup& group : call.prompts)
    multiply_prompt(context, stream, group, plan.order(), buffers, x.cols());
}

}  // namespace

DeltaLaunch launch_of(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan) {
  // Up to so many rows launches cost more than staging the inputs of several tokens.
  constexpr int64_t kFewRows = 8;
  const int token_tiles = (plan.segment_tokens() + kMaxTokens - 1) / kMaxTokens;
  DeltaForm form = DeltaForm::kPrepared;
  if (!context.deterministic) {
    if (plan.segment_tokens() == 1) {
      form = DeltaForm::kOneToken;
    } else if (plan.n_rows() <= kFewRows) {
      form = DeltaForm::kFewTokens;
    }
  }
  return {.stream = stream.get(),
          .n_sms = context.n_sms,
          .token_tiles = token_tiles,
          // On an H200 1 to 9 % less time up to 64 variants; more tokens of one: not measured.
          .overlaps = context.overlaps && token_tiles <= 2,
          .form = form,
          .deterministic = context.deterministic,
          .blocks_per_sm = form != DeltaForm::kPrepared && plan.n_rows() <= kFewRows ? 1 : 0};
}

void launch_call(const CudaVariantPlan::Call& call, DeltaBuffers buffers, const DeltaLaunch& how) {
  using Plan = CudaVariantPlan;
  buffers.whole_blocks = how.deterministic;
  const auto launch = [&](unsigned kind, auto launcher, auto... more) {
    if (call.kinds & kind) DELTACOME_CUDA_CHECK(launcher(call.table, buffers, more..., how));
  };
  launch(Plan::kVectorInputs, launch_inputs, true);
  launch(Plan::kVectors, launch_vectors);
  launch(Plan::kPlain, launch_plain, false);
  const bool prepares = how.form == DeltaForm::kPrepared;
  if (prepares) launch(Plan::kInputs, launch_inputs, false);
  launch(Plan::kShrink, launch_shrink);
  if (prepares) launch(Plan::kExpand, launch_components);
  // One after another if the order of additions to y matters.
  for (int tier = 0; tier < (how.deterministic ? kTierLaunches : 1); ++tier) {
    buffers.tier = how.deterministic ? tier : -1;
    launch(Plan::kExpand, launch_expand);
    launch(Plan::kPlainExpand, launch_plain, true);
  }
}

void add_deltas(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                const Tensor& x, std::span<const LinearTarget> targets) {
  DELTACOME_CHECK(plan.n_rows() == x.rows());
  while (!targets.empty()) {
    const size_t n = std::min<size_t>(targets.size(), kMaxTargets);
    add_to(context, stream, plan, x, targets.first(n));
    targets = targets.subspan(n);
  }
}

void embed_deltas(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
                  int slot, const int32_t* ids, const Tensor& y) {
  DELTACOME_CHECK(plan.n_rows() == y.rows());
  const WorkList<EmbeddingSegment>* list = plan.embedding(slot, stream);
  if (list == nullptr) return;
  DELTACOME_CUDA_CHECK(
      launch_embedding(list, ids, plan.rows(), y.cols(), f32(y), launch_of(context, stream, plan)));
}

}  // namespace deltacome::cuda
