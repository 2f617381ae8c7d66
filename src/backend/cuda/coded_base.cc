// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/coded_base.h"

#include <limits>
#include <numeric>

#include "backend/cuda/delta_call.h"
#include "backend/cuda/delta_decode.h"
#include "backend/cuda/delta_pack.h"
#include "backend/cuda/linear.h"
#include "backend/cuda/quantize.h"
#include "core/check.h"
#include "quant/codes.h"

namespace deltacome::cuda {
namespace {

constexpr int64_t kFewRows = 64;       // more are worth decoding weights for
constexpr size_t kMostTables = 16384;  // that are kept
constexpr int64_t kDecodedRows = 128;  // are decoded at a time, or a multiple of it

int tiles_for(int64_t n_rows) {
  return n_rows <= kMaxTokens ? 1 : n_rows <= 2 * kMaxTokens ? 2 : 4;
}

}  // namespace

const PackedMatrix* coded(const Tensor& weight) noexcept {
  const auto* storage = dynamic_cast<const CodedStorage*>(weight.storage.get());
  return storage == nullptr ? nullptr : &storage->matrix();
}

Tensor make_coded(const CudaContext& context, CudaStream& stream, const HostTensor& host,
                  WeightFormat format) {
  DELTACOME_CHECK(host.shape.size() == 2);
  const bool rows_scaled = format == WeightFormat::kInt8;
  const int64_t rows = host.shape[0], cols = host.cols(), groups = groups_of(cols);
  PackedMatrix m;
  m.rows = rows;
  m.cols = cols;
  m.bits = rows_scaled ? 8 : 4;
  m.center = code_center(m.bits);
  m.stride = tiles_of(cols);
  const int64_t code_bytes = ceil_to(tile_bytes(rows, cols, m.bits), 256);
  const int64_t chunks = scale_chunks(rows, m.bits);
  const int64_t scale_bytes = rows_scaled ? rows * 4 : chunks * groups * kScaleRows * 2;
  auto memory =
      std::make_unique<CudaStorage>(context.memory, code_bytes + scale_bytes, Purpose::kWeights);
  m.codes = memory->data();
  std::byte* scales = memory->data() + code_bytes;

  // On the way: the weights, a code a byte, scales in their own order.
  const auto passing = [&](int64_t bytes) {
    return std::make_unique<CudaStorage>(context.memory, bytes, Purpose::kWeights);
  };
  const auto weights = passing(static_cast<int64_t>(host.bytes.size()));
  const auto bytes = passing(rows * cols), group_scales = passing(rows * groups * 2),
             bad = passing(4);
  stream.upload(host.bytes, weights->data());
  int bad_row = std::numeric_limits<int>::max();
  stream.upload(std::as_bytes(std::span(&bad_row, 1)), bad->data());
  Quantize args;
  args.weights = {weights->data(), element_of(host.dtype), rows, cols};
  args.bits = m.bits;
  args.codes = reinterpret_cast<uint8_t*>(bytes->data());
  args.row_scales = reinterpret_cast<float*>(scales);
  args.group_scales = reinterpret_cast<uint16_t*>(group_scales->data());
  args.bad_row = reinterpret_cast<int*>(bad->data());
  DELTACOME_CUDA_CHECK(launch_quantize(args, stream.get()));
  PlainArray from;
  from.low = args.codes;
  from.rows = rows;
  from.cols = cols;
  from.bits = 8;
  DELTACOME_CUDA_CHECK(launch_pack_tiles(from, false, m, memory->data(), stream.get()));
  if (rows_scaled) {
    m.row_factor = args.row_scales;
  } else {
    m.scales = scales;
    DELTACOME_CUDA_CHECK(launch_pack_scales(args.group_scales, rows, groups, groups, 1, chunks,
                                            scales, stream.get()));
  }
  stream.download(bad->data(), std::as_writable_bytes(std::span(&bad_row, 1)));
  if (bad_row != std::numeric_limits<int>::max()) {
    fail(ErrorCode::kInvalidArgument,
         "weights {} of the base: row {} has a value that is not finite, expected finite values "
         "for codes of {} bits",
         to_string(host.shape), bad_row, m.bits);
  }
  return {std::make_shared<CodedStorage>(std::move(memory), m), 0, host.dtype, host.shape};
}

const CodedBase::Table& CodedBase::table(CudaStream& stream, int64_t n_rows, int64_t n_in,
                                         std::span<const LinearTarget> targets) {
  std::vector<intptr_t> key = {n_rows};
  for (const LinearTarget& target : targets) {
    const PackedMatrix& m = *coded(target.weight);
    for (const void* p : {m.codes, m.scales, static_cast<const void*>(m.row_factor)})
      key.push_back(reinterpret_cast<intptr_t>(p));
    for (const int64_t n : {m.rows, m.cols, int64_t{m.bits}}) key.push_back(n);
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
    start_segment(*coded(targets[t].weight), static_cast<int>(t), s);
    s.parts[0] = part_of(*coded(targets[t].weight));
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
  const DeltaLaunch how = {
      .stream = stream.get(),
      .n_sms = context_.n_sms,
      .token_tiles = tiles_for(n),
      .overlaps = false,
      .one_token = n == 1 && !context_.deterministic,
      .prepares = n > kMaxTokens || context_.deterministic || (n > 1 && n_in % kTileCols != 0),
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
  for (size_t t = 0; t < targets.size(); ++t) {
    const Tensor& y = targets[t].y;
    buffers.y[t] = f32(y);
    buffers.y_stride[t] = y.cols();
    // Parts of sums are added to y.
    DELTACOME_CUDA_CHECK(cudaMemset2DAsync(f32(y), static_cast<size_t>(4 * y.cols()), 0,
                                           static_cast<size_t>(4 * targets[t].weight.rows()),
                                           static_cast<size_t>(n), stream.get()));
  }
  if (how.prepares) DELTACOME_CUDA_CHECK(launch_inputs(table.call, buffers, false, how));
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
    const PackedMatrix& m = *coded(target.weight);
    for (int64_t first = 0; first < m.rows; first += most) {
      const int64_t count = std::min(most, m.rows - first);
      const Tensor w = context_.allocate(DType::kBf16, {count, padded});
      DecodeJobs jobs;
      DecodeJob& job = jobs.jobs[jobs.n++];
      job.matrix = m;
      job.first = first;
      job.n = count;
      job.cols = job.stride = padded;
      job.out = bytes_of(w);
      DELTACOME_CUDA_CHECK(launch_decode(jobs, stream.get()));
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
  x.rows() <= kFewRows ? few_rows(stream, x, targets) : many_rows(stream, x, targets);
}

}  // namespace deltacome::cuda
