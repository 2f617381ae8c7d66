// SPDX-License-Identifier: Apache-2.0
// Backend::linear() of the CPU: dense weights, and low-rank, dense and vector deltas, against the
// machine's own roofs.
//   linear_bench --benchmark_repetitions=21 --benchmark_report_aggregates_only=true
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "backend/backend.h"
#include "core/thread_pool.h"
#include "quant/vector_codes.h"

namespace deltacome {
namespace {

HostTensor random_weight(int64_t n_out, int64_t n_in, DType dtype) {
  std::mt19937 rng(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(static_cast<size_t>(n_out * n_in));
  for (float& v : values) v = uniform(rng);
  std::vector<std::byte> bytes(values.size() * static_cast<size_t>(dtype_bytes(dtype)));
  convert_from_float(values, dtype, bytes.data());
  return HostTensor::of(dtype, {n_out, n_in}, std::move(bytes));
}

/// Codes and scales of a delta.
HostTensor random_delta(const MatrixFormat& format) {
  const BlobLayout layout = layout_of(format);
  std::vector<std::byte> blob(static_cast<size_t>(layout.total_bytes));
  std::mt19937 rng(2);
  for (std::byte& b : blob) b = static_cast<std::byte>(rng());
  const uint16_t scale = float_to_f16(0.01f), s = float_to_bf16(0.5f);
  const auto fill = [&](const Part& part, uint16_t bits) {
    for (int64_t i = 0; i < part.bytes; i += 2)
      std::copy_n(reinterpret_cast<const std::byte*>(&bits), 2, blob.data() + part.offset + i);
  };
  fill(layout.s, s);
  fill(layout.dense.scales, scale);
  fill(layout.row_scale, scale);
  for (const TierLayout& tier : layout.tiers) {
    fill(tier.v.scales, scale);
    fill(tier.u.scales, scale);
  }
  return HostTensor::of(DType::kU8, {layout.total_bytes}, std::move(blob));
}

Tensor zeros(Backend& backend, Stream& stream, int64_t rows, int64_t cols) {
  Tensor t = backend.allocate(DType::kF32, {rows, cols});
  const std::vector<std::byte> bytes(static_cast<size_t>(t.bytes()));
  backend.upload(stream, bytes, t);
  return t;
}

void report(benchmark::State& state, double multiply_adds, double bytes) {
  const auto n = static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * multiply_adds * n, benchmark::Counter::kIsRate);
  state.counters["GB/s"] = benchmark::Counter(1e-9 * bytes * n, benchmark::Counter::kIsRate);
}

/// Arguments: threads, rows, n_out, n_in, dtype.
void dense_linear(benchmark::State& state) {
  const auto backend = create_cpu_backend(static_cast<int>(state.range(0)));
  const auto stream = backend->create_stream();
  const int64_t n = state.range(1), n_out = state.range(2), n_in = state.range(3);
  LinearTarget target;
  target.weight =
      backend->import_weight(random_weight(n_out, n_in, static_cast<DType>(state.range(4))));
  target.y = zeros(*backend, *stream, n, n_out);
  const Tensor x = zeros(*backend, *stream, n, n_in);
  const std::vector<VariantSegment> segments = {{nullptr, n}};
  const auto plan = backend->plan_variants(segments);
  for (auto _ : state) backend->linear(*stream, *plan, x, {&target, 1});
  report(state, static_cast<double>(n * n_out * n_in), static_cast<double>(target.weight.bytes()));
}

/// A base of bf16 and one variant for all rows; `multiply_adds` a row of the delta. GB/s counts the
/// variant's packed bytes and the base's. Arguments of the callers: threads, rows, n_out, n_in, ...
void delta_linear(benchmark::State& state, MatrixFormat format, int64_t multiply_adds) {
  const auto backend = create_cpu_backend(static_cast<int>(state.range(0)));
  const auto stream = backend->create_stream();
  const int64_t n = state.range(1), n_out = state.range(2), n_in = state.range(3);
  format.shape = {n_out, n_in};
  format.base_rows = n_out;
  auto variant = backend->create_variant(1);
  variant->set(0, format, random_delta(format), *stream);
  LinearTarget target;
  target.slot = 0;
  target.weight = backend->import_weight(random_weight(n_out, n_in, DType::kBf16));
  target.y = zeros(*backend, *stream, n, n_out);
  const Tensor x = zeros(*backend, *stream, n, n_in);
  const std::vector<VariantSegment> segments = {{variant, n}};
  const auto plan = backend->plan_variants(segments);
  for (auto _ : state) backend->linear(*stream, *plan, x, {&target, 1});
  report(state, static_cast<double>(n * (n_out * n_in + multiply_adds)),
         static_cast<double>(target.weight.bytes() + variant->resident_bytes()));
}

/// Last arguments: rank, bits.
void low_rank_linear(benchmark::State& state) {
  const int64_t rank = state.range(4);
  const auto bits = static_cast<int>(state.range(5));
  MatrixFormat format;
  format.codec = Codec::kLowRank;
  format.tiers = {{.rank = rank, .v = {bits, 1, 128}, .u = {bits, 128, 1}}};
  delta_linear(state, format, rank * (state.range(2) + state.range(3)));
}

/// Last argument: bits, one scale a row.
void dense_delta_linear(benchmark::State& state) {
  MatrixFormat format;
  format.codec = Codec::kDense;
  format.dense = {static_cast<int>(state.range(4)), 1, 0};
  delta_linear(state, format, state.range(2) * state.range(3));
}

/// Last argument: dimension of the code. With gains.
void vector_linear(benchmark::State& state) {
  MatrixFormat format;
  format.codec = Codec::kVector;
  format.vector = {
      .dim = static_cast<int>(state.range(4)), .block = rotation_block(state.range(3)), .seed = 1};
  format.col_gain = true;
  delta_linear(state, format, state.range(2) * state.range(3));
}

constexpr auto kF32 = static_cast<int64_t>(DType::kF32);
constexpr auto kBf16 = static_cast<int64_t>(DType::kBf16);

BENCHMARK(dense_linear)
    ->ArgNames({"threads", "rows", "n_out", "n_in", "dtype"})
    ->ArgsProduct({{1, 2}, {1, 4, 512}, {1024}, {1024}, {kF32, kBf16}})
    ->ArgsProduct(
        {{1}, {1, 8, 64}, {4096}, {4096}, {kBf16}})  // what the deltas below come on top of
    ->ArgsProduct({{1, 2}, {1, 8}, {11008}, {4096}, {kBf16}})  // larger than the caches
    ->UseRealTime();
BENCHMARK(low_rank_linear)
    ->ArgNames({"threads", "rows", "n_out", "n_in", "rank", "bits"})
    ->ArgsProduct({{1, 2}, {1, 8, 64, 256}, {4096}, {4096}, {1024}, {2, 3}})
    ->UseRealTime();
BENCHMARK(dense_delta_linear)
    ->ArgNames({"threads", "rows", "n_out", "n_in", "bits"})
    ->ArgsProduct({{1}, {1, 8, 64}, {4096}, {4096}, {1}})
    ->UseRealTime();
BENCHMARK(vector_linear)
    ->ArgNames({"threads", "rows", "n_out", "n_in", "dim"})
    ->ArgsProduct({{1}, {1, 8, 64}, {4096}, {4096}, {4, 6, 8, 12, 16}})
    ->UseRealTime();

}  // namespace
}  // namespace deltacome
