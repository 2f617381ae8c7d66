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

Roofs::Roofs(Backend& backend, int n_threads)
    : backend_(backend), pool_(n_threads), buffer_(kBufferWords, 1) {}

void Roofs::measure_read() {
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

void Roofs::measure_gemm(Stream& stream) {
  const Tensor a = backend_.allocate(DType::kF32, {kGemmSize, kGemmSize});
  const Tensor b = backend_.allocate(DType::kF32, {kGemmSize, kGemmSize});
  const Tensor c = backend_.allocate(DType::kF32, {kGemmSize, kGemmSize});
  const std::vector<float> ones(static_cast<size_t>(kGemmSize * kGemmSize), 1.0F);
  for (const Tensor& t : {a, b}) backend_.upload(stream, std::as_bytes(std::span(ones)), t);
  stream.synchronize();
  const auto start = Clock::now();
  backend_.training().matmul(stream, a, false, b, true, 0, c);
  stream.synchronize();
  const double flops = 2.0 * kGemmSize * kGemmSize * kGemmSize;
  gemm_gflop_per_s_ = std::max(gemm_gflop_per_s_, flops / seconds_since(start) / 1e9);
}

}  // namespace deltacome
