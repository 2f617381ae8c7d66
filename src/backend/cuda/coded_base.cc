// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/coded_base.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "backend/cuda/coded_rows.h"
#include "backend/cuda/delta_call.h"
#include "backend/cuda/delta_decode.h"
#include "backend/cuda/delta_pack.h"
#include "core/check.h"

namespace deltacome::cuda {
namespace {

constexpr int64_t kFewRows = 64;       // more are worth decoding weights for
constexpr size_t kMostTables = 16384;  // that are kept
constexpr int64_t kDecodedRows = 128;  // are decoded at a time, or a multiple of it

int tiles_for(int64_t n_rows) {
  return n_rows <= kMaxTokens ? 1 : n_rows <= 2 * kMaxTokens ? 2 : 4;
}

/// Rows [first, first + n) of a matrix as bf16 [n, cols].
void decode(CudaStream& stream, const CodedMatrix& m, int64_t first, int64_t n, int64_t cols,
            void* out) {
  if (m.zeros != nullptr) {
    DELTACOME_CUDA_CHECK(
        launch_decode_zeros({m.packed, m.zeros, m.n_sums, first, n, cols, out}, stream.get()));
    return;
  }
  DecodeJobs jobs;
  DecodeJob& job = jobs.jobs[jobs.n++];
  job.matrix = m.packed;
  job.first = first;
  job.n = n;
  job.cols = job.stride = cols;
  job.out = out;
  DELTACOME_CUDA_CHECK(launch_decode(jobs, stream.get()));
}

}  // namespace

const CodedBase::Table& CodedBase::table(CudaStream& stream, int64_t n_rows, int64_t n_in,
                                         std::span<const LinearTarget> targets) {
  std::vector<intptr_t> key = {n_rows};
  for (const LinearTarget& target : targets) {
    const PackedMatrix& m = coded(target.weight)->packed;
    for (const void* p : {m.codes, m.scales, static_cast<const void*>(m.row_factor)})
      key.push_back(reinterpret_cast<intptr_t>(p));
    // Another matrix may lie where one lay before.
    for (const int64_t n : {m.rows, m.cols, int64_t{m.bits}}) key.push_back(n);
    key.push_back(std::bit_cast<int32_t>(m.center));
  }
  const auto found = tables_.find(key);
  if (found != tables_.end()) return found->second;
  if (tables_.size() >= kMostTables) tables_.clear();

  HostList<InputSegment> segments;
  HostList<InputJob> inputs;
  InputJob job;
  job.cols = static_cast<int32_t>(n_in);
  job.padded = static_cast<int32_t>(ceil_to(n_in, kGroupCols));
  job.group = kGroupCols;
  job.chunk = 1024;
  for (int64_t r = 0; r < n_rows; ++r) {
    job.row = static_cast<int32_t>(r);
    job.out = r * job.padded;
    job.scales = r * groups_of(n_in);
    inputs.add(job, 1);
  }
  const int64_t at_once = int64_t{kMaxTokens} * tiles_for(n_rows);
  for (size_t t = 0; t < targets.size(); ++t) {
    InputSegment s;
    const PackedMatrix& m = coded(targets[t].weight)->packed;
    start_segment(m, static_cast<int>(t), s);
    s.parts[0] = part_of(m);
    s.parts[0].in_stride = static_cast<int32_t>(ceil_to(n_in, kGroupCols));
    s.parts[0].scale_stride = static_cast<int32_t>(groups_of(n_in));
    for (int64_t first = 0; first < n_rows; first += at_once) {
      s.first_token = s.first_row = static_cast<int32_t>(first);
      s.n_tokens = static_cast<int32_t>(std::min(at_once, n_rows - first));
      s.parts[0].in = first * s.parts[0].in_stride;
      s.parts[0].in_scales = first * s.parts[0].scale_stride;
      segments.add(s, blocks_of(s.rows, s.bits) * s.groups);
    }
  }
  std::vector<int32_t> identity(static_cast<size_t>(n_rows));
  std::iota(identity.begin(), identity.end(), 0);
  TableBytes bytes;
  Table made;
  bytes.append(inputs, static_cast<int32_t>(inputs.items.size()), made.call.inputs);
  bytes.append(segments, static_cast<int32_t>(segments.items.size()), made.call.shrink);
  made.rows = bytes.append(std::span<const int32_t>(identity));
  made.memory = std::make_unique<CudaStorage>(
      context_.memory, static_cast<int64_t>(bytes.bytes().size()), Purpose::kWeights);
  TableBytes::move_to(made.memory->data(), made.call.inputs);
  TableBytes::move_to(made.memory->data(), made.call.shrink);
  TableBytes::move_to(made.memory->data(), made.rows);
  stream.upload(bytes.bytes(), made.memory->data());
  return tables_.emplace(std::move(key), std::move(made)).first->second;
}

void CodedBase::few_rows(CudaStream& stream, const Tensor& x,
                         std::span<const LinearTarget> targets) {
  const int64_t n = x.rows(), n_in = x.cols();
  const Table& table = this->table(stream, n, n_in, targets);
  const bool has_zeros = std::ranges::any_of(
      targets, [](const LinearTarget& t) { return coded(t.weight)->zeros != nullptr; });
  const DeltaLaunch how = {.stream = stream.get(),
                           .n_sms = context_.n_sms,
                           .token_tiles = tiles_for(n),
                           .overlaps = false,
                           .one_token = n == 1 && !context_.deterministic,
                           .prepares = has_zeros || n > kMaxTokens || context_.deterministic ||
                                       (n > 1 && n_in % kTileCols != 0),
                           .deterministic = context_.deterministic};
  DeltaBuffers buffers;
  const Tensor inputs = context_.allocate(DType::kU8, {n, ceil_to(n_in, kGroupCols)});
  const Tensor scales = context_.allocate(DType::kF32, {n, 2 * groups_of(n_in)});
  buffers.x = f32(x);
  buffers.x_stride = n_in;
  buffers.inputs = reinterpret_cast<int8_t*>(bytes_of(inputs));
  buffers.input_scales = f32(scales);
  buffers.rows = table.rows;
  buffers.whole_blocks = how.deterministic;
  FirstSums first;  // parts of sums are added to them
  first.n_targets = static_cast<int>(targets.size());
  first.n_rows = n;
  first.groups = groups_of(n_in);
  first.inputs = reinterpret_cast<const float2*>(buffers.input_scales);
  for (size_t t = 0; t < targets.size(); ++t) {
    const CodedMatrix& m = *coded(targets[t].weight);
    buffers.y[t] = f32(targets[t].y);
    buffers.y_stride[t] = targets[t].y.cols();
    first.targets[t] = {m.zeros, m.n_sums, buffers.y[t], m.packed.rows, buffers.y_stride[t]};
  }
  if (how.prepares) DELTACOME_CUDA_CHECK(launch_inputs(table.call, buffers, false, how));
  DELTACOME_CUDA_CHECK(launch_first_sums(first, stream.get()));
  DELTACOME_CUDA_CHECK(launch_shrink(table.call, buffers, how));
}

void CodedBase::many_rows(CudaStream& stream, const Tensor& x,
                          std::span<const LinearTarget> targets) {
  const int64_t n = x.rows(), n_in = x.cols(), padded = ceil_to(n_in, 8);
  const Tensor rounded = context_.allocate(DType::kBf16, {n, padded});
  PromptInput input;
  input.x = f32(x);
  input.x_stride = n_in;
  input.n_rows = static_cast<int32_t>(n);
  input.cols = static_cast<int32_t>(n_in);
  input.padded = static_cast<int32_t>(padded);
  input.out = bytes_of(rounded);
  DELTACOME_CUDA_CHECK(launch_prompt_input(input, stream.get()));
  const int64_t most =
      std::max(kDecodedRows, context_.decoded_bytes / (2 * padded) / kDecodedRows * kDecodedRows);
  for (const LinearTarget& target : targets) {
    const CodedMatrix& m = *coded(target.weight);
    for (int64_t first = 0; first < m.packed.rows; first += most) {
      const int64_t count = std::min(most, m.packed.rows - first);
      const Tensor w = context_.allocate(DType::kBf16, {count, padded});
      decode(stream, m, first, count, padded, bytes_of(w));
      const bool done = context_.lt_matmul->multiply(stream, {.w = bytes_of(w),
                                                              .x = bytes_of(rounded),
                                                              .y = f32(target.y) + first,
                                                              .n_rows = n,
                                                              .n_out = count,
                                                              .n_in = padded,
                                                              .w_stride = padded,
                                                              .x_stride = padded,
                                                              .y_stride = target.y.cols()});
      if (!done) {
        fail(ErrorCode::kDevice, "cuBLASLt has no product of {} rows, {} inputs and {} outputs", n,
             padded, count);
      }
    }
  }
}

void CodedBase::run(CudaStream& stream, const Tensor& x, std::span<const LinearTarget> targets) {
  DELTACOME_CHECK(targets.size() <= kMaxTargets);
  const auto order_of = [](const LinearTarget& target) {
    return coded(target.weight)->order.get();
  };
  // Targets whose inputs are in the same order, together.
  std::vector<LinearTarget> left(targets.begin(), targets.end());
  while (!left.empty()) {
    const CudaStorage* order = order_of(left.front());
    const auto others = std::stable_partition(
        left.begin(), left.end(), [&](const auto& target) { return order_of(target) == order; });
    Tensor in = x;
    if (order != nullptr) {
      in = context_.allocate(DType::kF32, x.shape);
      DELTACOME_CUDA_CHECK(launch_gather_columns(f32(x), x.rows(), x.cols(),
                                                 reinterpret_cast<const int32_t*>(order->data()),
                                                 f32(in), stream.get()));
    }
    const std::span<const LinearTarget> same(left.begin(), others);
    x.rows() <= kFewRows ? few_rows(stream, in, same) : many_rows(stream, in, same);
    left.erase(left.begin(), others);
  }
}

}  // namespace deltacome::cuda
