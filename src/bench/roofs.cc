// SPDX-License-Identifier: Apache-2.0
#include "bench/roofs.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "backend/training_ops.h"

namespace deltacome {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kBufferWords = size_t{48} << 20;  // 384 MiB: larger than any cache
constexpr int64_t kPieceWords = 1 << 17;
constexpr int64_t kGemmSize = 1024;
constexpr int64_t kDeviceFloats = int64_t{128} << 20;
constexpr int64_t kDeviceGemmSize = 4096;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Four streams of additions, which wait for memory rather than for each other.
uint64_t sum_of(const uint64_t* p, int64_t n) {
  uint64_t sums[16] = {};
  for (int64_t i = 0; i < n; i += 16) {
    for (int64_t j = 0; j < 16; ++j) sums[j] += p[i + j];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

Roofs::Roofs(Backend& backend, bool on_cpu, int n_threads)
    : backend_(backend),
      on_cpu_(on_cpu),
      pool_(on_cpu ? n_threads : 1),
      buffer_(on_cpu ? kBufferWords : 0, 1) {}

void Roofs::measure_read(Stream& stream) {
  on_cpu_ ? read_host() : read_device(stream);
}

void Roofs::read_host() {
  const auto n_pieces = static_cast<int64_t>(kBufferWords) / kPieceWords;
  std::atomic<uint64_t> total = 0;
  const auto start = Clock::now();
  pool_.parallel_for(n_pieces, 1, [&](int64_t begin, int64_t end) {
    total += sum_of(buffer_.data() + begin * kPieceWords, (end - begin) * kPieceWords);
  });
  const double rate = static_cast<double>(kBufferWords) * 8 / seconds_since(start) / 1e9;
  sink_ = total;
  read_gb_per_s_ = std::max(read_gb_per_s_, rate);
}

void Roofs::read_device(Stream& stream) {
  constexpr int kTurns = 4;
  if (x_.empty()) {
    x_ = backend_.allocate(DType::kF32, {kDeviceFloats});
    y_ = backend_.allocate(DType::kF32, {kDeviceFloats});
    backend_.add(stream, x_, y_);
  }
  stream.synchronize();
  const auto start = Clock::now();
  for (int i = 0; i < kTurns; ++i) backend_.add(stream, x_, y_);
  stream.synchronize();
  const double bytes = 3.0 * kTurns * static_cast<double>(x_.bytes());
  read_gb_per_s_ = std::max(read_gb_per_s_, bytes / seconds_since(start) / 1e9);
}

double Roofs::gemm_seconds(Stream& stream) {
  const int64_t n = on_cpu_ ? kGemmSize : kDeviceGemmSize;
  const auto values = [&](DType dtype) {
    const std::vector<float> ones(static_cast<size_t>(n * n), 1.0F);
    std::vector<std::byte> bytes(ones.size() * static_cast<size_t>(dtype_bytes(dtype)));
    convert_from_float(ones, dtype, bytes.data());
    return HostTensor::of(dtype, {n, n}, std::move(bytes));
  };
  const Tensor a = backend_.import_weight(values(DType::kF32));
  const Tensor b = backend_.import_weight(values(on_cpu_ ? DType::kF32 : DType::kBf16));
  const Tensor c = backend_.allocate(DType::kF32, {n, n});
  const std::vector<VariantSegment> rows = {{nullptr, n}};
  const auto plan = backend_.plan_variants(rows);
  const auto multiply = [&] {
    if (on_cpu_) return backend_.training().matmul(stream, a, false, b, true, 0, c);
    const LinearTarget target{.slot = -1, .weight = b, .bias_slot = -1, .bias = {}, .y = c};
    backend_.linear(stream, *plan, a, {&target, 1});
  };
  if (!on_cpu_) multiply();  // the library makes its choice
  stream.synchronize();
  const auto start = Clock::now();
  multiply();
  stream.synchronize();
  return seconds_since(start);
}

void Roofs::measure_gemm(Stream& stream) {
  const auto n = static_cast<double>(on_cpu_ ? kGemmSize : kDeviceGemmSize);
  gemm_gflop_per_s_ = std::max(gemm_gflop_per_s_, 2.0 * n * n * n / gemm_seconds(stream) / 1e9);
}

}  // namespace deltacome
