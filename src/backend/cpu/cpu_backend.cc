// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/cpu_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backend/cpu/attention.h"
#include "backend/cpu/compression.h"
#include "backend/cpu/cpu_memory.h"
#include "backend/cpu/linear.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/sample.h"
#include "backend/cpu/training.h"
#include "backend/cpu/vision.h"
#include "backend/cpu/weight.h"

namespace deltacome {
namespace {

class CpuStream final : public Stream {
 public:
  void synchronize() override {}
};

}  // namespace

CpuBackend::CpuBackend(int n_threads, const cpu::Kernels& kernels)
    : pool_(n_threads), runtime_{pool_, kernels} {}

CpuBackend::~CpuBackend() = default;

std::string CpuBackend::name() const {
  const int n = pool_.n_threads();
  return fmt::format("cpu ({}, {} thread{})", runtime_.kernels.name, n, n == 1 ? "" : "s");
}

std::unique_ptr<Stream> CpuBackend::create_stream() {
  return std::make_unique<CpuStream>();
}

Tensor CpuBackend::allocate(DType dtype, Shape shape) {
  return cpu::allocate(dtype, std::move(shape));
}

Tensor CpuBackend::import_weight(const HostTensor& host) {
  if (host.owner == nullptr) {
    Tensor copy = cpu::allocate(host.dtype, host.shape);
    std::ranges::copy(host.bytes, cpu::bytes_of(copy));
    return copy;
  }
  auto* bytes = const_cast<std::byte*>(host.bytes.data());  // weights are only read
  return {std::make_shared<cpu::CpuStorage>(bytes, host.owner), 0, host.dtype, host.shape};
}

Tensor CpuBackend::import_projection(const HostTensor& host, WeightFormat format) {
  if (format == WeightFormat::kStored) return import_weight(host);
  return cpu::make_projection(runtime_, host, format);
}

QuantizedImport CpuBackend::import_quantized(const QuantizedMatrix& matrix) {
  return cpu::make_quantized(runtime_, matrix);
}

void CpuBackend::upload(Stream&, std::span<const std::byte> host, const Tensor& to) {
  DELTACOME_CHECK(static_cast<int64_t>(host.size()) == to.bytes());
  std::ranges::copy(host, cpu::bytes_of(to));
}

void CpuBackend::download(Stream&, const Tensor& from, std::span<std::byte> host) {
  DELTACOME_CHECK(static_cast<int64_t>(host.size()) == from.bytes());
  std::copy_n(cpu::bytes_of(from), host.size(), host.begin());
}

std::shared_ptr<DeviceVariant> CpuBackend::create_variant(int n_slots) {
  return std::make_shared<cpu::CpuVariant>(n_slots);
}

std::unique_ptr<VariantPlan> CpuBackend::plan_variants(std::span<const VariantSegment> segments) {
  return std::make_unique<cpu::CpuVariantPlan>(segments);
}

void CpuBackend::embed(Stream&, const VariantPlan& plan, int slot, std::span<const int32_t> ids,
                       const Tensor& table, const Tensor& y) {
  cpu::embed(runtime_, cpu::cpu_plan(plan), slot, ids, table, y);
}

void CpuBackend::rms_norm(Stream&, const VariantPlan& plan, int slot, const Tensor& x,
                          const Tensor& weight, double eps, const Tensor& y) {
  cpu::rms_norm(runtime_, cpu::cpu_plan(plan), slot, x, weight, eps, y);
}

void CpuBackend::linear(Stream&, const VariantPlan& plan, const Tensor& x,
                        std::span<const LinearTarget> targets) {
  if (x.rows() == 0 || targets.empty()) return;
  cpu::linear(runtime_, cpu::cpu_plan(plan), x, targets);
}

std::unique_ptr<AttentionPlan> CpuBackend::plan_attention(std::span<const SequenceChunk> chunks) {
  return std::make_unique<cpu::CpuAttentionPlan>(chunks);
}

void CpuBackend::rope(Stream&, const AttentionPlan& plan, const Tensor& x, const Tensor& inv_freq) {
  if (x.rows() == 0) return;
  cpu::rope(runtime_, cpu::cpu_plan(plan), x, inv_freq);
}

void CpuBackend::store_kv(Stream&, const AttentionPlan& plan, const Tensor& k, const Tensor& v,
                          const Tensor& k_cache, const Tensor& v_cache) {
  if (k.rows() == 0) return;
  cpu::store_kv(runtime_, cpu::cpu_plan(plan), k, v, k_cache, v_cache);
}

void CpuBackend::attention(Stream&, const AttentionPlan& plan, const AttentionShape& shape,
                           const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                           const Tensor& out) {
  if (q.rows() == 0) return;
  cpu::attention(runtime_, cpu::cpu_plan(plan), shape, q, k_cache, v_cache, out);
}

void CpuBackend::silu_mul(Stream&, const Tensor& gate, const Tensor& up, const Tensor& out) {
  cpu::silu_mul(runtime_, gate, up, out);
}

void CpuBackend::add(Stream&, const Tensor& x, const Tensor& y) {
  cpu::add(runtime_, x, y);
}

void CpuBackend::gather_rows(Stream&, const Tensor& x, std::span<const int32_t> rows,
                             const Tensor& y) {
  cpu::gather_rows(x, rows, y);
}

void CpuBackend::sample(Stream&, const Tensor& logits, std::span<const SampleParams> params,
                        std::span<int32_t> tokens) {
  const auto n = static_cast<int64_t>(params.size());
  DELTACOME_CHECK(logits.rows() == n && tokens.size() == params.size());
  const int64_t width = logits.cols();
  for (const SampleParams& p : params) DELTACOME_CHECK(p.vocab_size > 0 && p.vocab_size <= width);
  pool_.parallel_for(n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const std::span<const float> row(cpu::f32(logits) + i * width, static_cast<size_t>(width));
      tokens[static_cast<size_t>(i)] = cpu::sample_row(row, params[static_cast<size_t>(i)]);
    }
  });
}

CompressionOps& CpuBackend::compression() {
  if (compression_ == nullptr) compression_ = cpu::create_compression_ops(pool_);
  return *compression_;
}

TrainingOps& CpuBackend::training() {
  if (training_ == nullptr) training_ = cpu::create_training_ops(runtime_);
  return *training_;
}

VisionOps& CpuBackend::vision() {
  if (vision_ == nullptr) vision_ = cpu::create_vision_ops(runtime_);
  return *vision_;
}

std::unique_ptr<Backend> create_cpu_backend(int n_threads) {
  return std::make_unique<CpuBackend>(n_threads, *cpu::available_kernels().front());
}

}  // namespace deltacome
