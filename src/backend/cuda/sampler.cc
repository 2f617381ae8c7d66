// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/sampler.h"

#include <algorithm>
#include <vector>

#include "backend/cuda/sample.h"

namespace deltacome::cuda {
namespace {

constexpr size_t kRowsAtOnce = 64;  // whose keys are in memory: 16 bytes a token

void draw(const CudaContext& context, CudaStream& stream, const Tensor& logits,
          std::span<const SampleRow> rows, const Tensor& tokens) {
  const int64_t width = logits.cols(), n = static_cast<int64_t>(rows.size());
  const Tensor on_device = context.to_device(stream, std::as_bytes(rows), DType::kU8);
  const Tensor bins = context.allocate(DType::kU8, {n, static_cast<int64_t>(sizeof(SampleBins))});
  const Tensor keys = context.allocate(DType::kU8, {n, 2, 8 * width});
  DELTACOME_CUDA_CHECK(
      cudaMemsetAsync(bytes_of(bins), 0, static_cast<size_t>(bins.bytes()), stream.get()));
  DELTACOME_CUDA_CHECK(launch_draw({.logits = f32(logits),
                                    .width = width,
                                    .rows = reinterpret_cast<const SampleRow*>(bytes_of(on_device)),
                                    .n = static_cast<int>(n),
                                    .bins = reinterpret_cast<SampleBins*>(bytes_of(bins)),
                                    .keys = reinterpret_cast<uint64_t*>(bytes_of(keys))},
                                   i32(tokens), stream.get()));
}

}  // namespace

void sample(const CudaContext& context, CudaStream& stream, const Tensor& logits,
            std::span<const SampleParams> params, std::span<int32_t> tokens) {
  const int64_t width = logits.cols();
  DELTACOME_CHECK(logits.rows() == static_cast<int64_t>(params.size()));
  DELTACOME_CHECK(tokens.size() == params.size());
  if (params.empty()) return;
  std::vector<int32_t> vocab;
  std::vector<SampleRow> rows;
  for (const SampleParams& p : params) {
    DELTACOME_CHECK(p.vocab_size > 0 && p.vocab_size <= width);
    const auto row = static_cast<int32_t>(vocab.size());
    vocab.push_back(static_cast<int32_t>(p.vocab_size));
    if (p.temperature <= 0) continue;
    rows.push_back({.uniform = p.uniform,
                    .temperature = p.temperature,
                    .top_p = p.top_p,
                    .min_p = p.min_p,
                    .top_k = std::max(p.top_k, 0),
                    .vocab_size = vocab.back(),
                    .row = row});
  }
  const Tensor vocab_on_device =
      context.to_device(stream, std::as_bytes(std::span(vocab)), DType::kI32);
  const Tensor chosen = context.allocate(DType::kI32, {static_cast<int64_t>(params.size())});
  DELTACOME_CUDA_CHECK(launch_first_largest(f32(logits), width, i32(vocab_on_device),
                                            static_cast<int>(params.size()), i32(chosen),
                                            stream.get()));
  for (size_t first = 0; first < rows.size(); first += kRowsAtOnce) {
    const size_t n = std::min(kRowsAtOnce, rows.size() - first);
    draw(context, stream, logits, std::span(rows).subspan(first, n), chosen);
  }
  stream.download(bytes_of(chosen), std::as_writable_bytes(tokens));
}

}  // namespace deltacome::cuda
