// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta.h"

#include <algorithm>
#include <vector>

#include "backend/cuda/delta_kernels.h"
#include "core/check.h"

namespace deltacome::cuda {
namespace {

DeltaLaunch launch_of(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan) {
  int major = 0;
  DELTACOME_CUDA_CHECK(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, context.device));
  return {.stream = stream.get(),
          .n_sms = context.n_sms,
          .token_tiles = plan.token_tiles(),
          .overlaps = major >= 9};
}

void add_to(const CudaContext& context, CudaStream& stream, const CudaVariantPlan& plan,
            const Tensor& x, std::span<const LinearTarget> targets) {
  using Plan = CudaVariantPlan;
  std::vector<int> slots;
  for (const LinearTarget& target : targets) slots.push_back(target.slot);
  const Plan::Call call = plan.call(slots, x.cols(), stream);
  if (call.kinds == 0) return;
  DeltaBuffers buffers = plan.buffers(call, stream);
  buffers.x = f32(x);
  buffers.x_stride = x.cols();
  for (size_t i = 0; i < targets.size(); ++i) {
    DELTACOME_CHECK(targets[i].y.rows() == x.rows());
    buffers.y[i] = f32(targets[i].y);
    buffers.y_stride[i] = targets[i].y.cols();
  }
  const DeltaLaunch how = launch_of(context, stream, plan);
  const unsigned kinds = call.kinds;
  const bool reads_x = plan.reads_x(x.cols());
  if (kinds & Plan::kVectorInputs)
    DELTACOME_CUDA_CHECK(launch_inputs(call.table, buffers, true, how));
  if (kinds & Plan::kVectors) DELTACOME_CUDA_CHECK(launch_vectors(call.table, buffers, how));
  if (kinds & Plan::kPlain) DELTACOME_CUDA_CHECK(launch_plain(call.table, buffers, false, how));
  if ((kinds & Plan::kInputs) && !reads_x)
    DELTACOME_CUDA_CHECK(launch_inputs(call.table, buffers, false, how));
  if (kinds & Plan::kShrink) {
    const TileInput input = reads_x ? TileInput::kX : TileInput::kPrepared;
    DELTACOME_CUDA_CHECK(launch_tiles(call.table, buffers, input, how));
  }
  if (kinds & Plan::kExpand)
    DELTACOME_CUDA_CHECK(launch_tiles(call.table, buffers, TileInput::kZ, how));
  if (kinds & Plan::kPlainExpand)
    DELTACOME_CUDA_CHECK(launch_plain(call.table, buffers, true, how));
}

}  // namespace

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
