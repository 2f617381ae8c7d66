// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/backend.h"
#include "backend/cpu/runtime.h"

namespace deltacome {

/// The backend of the processor. Checks, then hands each op to its file; ops run before they
/// return.
class CpuBackend final : public Backend {
 public:
  /// `kernels`: of available_kernels(). n_threads 0 = one per core.
  CpuBackend(int n_threads, const cpu::Kernels& kernels);
  ~CpuBackend() override;

  std::string name() const override;
  std::unique_ptr<Stream> create_stream() override;

  Tensor allocate(DType dtype, Shape shape) override;
  Tensor import_weight(const HostTensor& host) override;
  Tensor import_projection(const HostTensor& host, WeightFormat format) override;
  QuantizedImport import_quantized(const QuantizedMatrix& matrix) override;
  void upload(Stream& stream, std::span<const std::byte> host, const Tensor& to) override;
  void download(Stream& stream, const Tensor& from, std::span<std::byte> host) override;

  std::shared_ptr<DeviceVariant> create_variant(int n_slots) override;
  std::unique_ptr<VariantPlan> plan_variants(std::span<const VariantSegment> segments) override;

  void embed(Stream& stream, const VariantPlan& plan, int slot, std::span<const int32_t> ids,
             const Tensor& table, const Tensor& y) override;
  void rms_norm(Stream& stream, const VariantPlan& plan, int slot, const Tensor& x,
                const Tensor& weight, double eps, const Tensor& y) override;
  void linear(Stream& stream, const VariantPlan& plan, const Tensor& x,
              std::span<const LinearTarget> targets) override;
  std::unique_ptr<AttentionPlan> plan_attention(std::span<const SequenceChunk> chunks) override;
  void rope(Stream& stream, const AttentionPlan& plan, const Tensor& x,
            const Tensor& inv_freq) override;
  void store_kv(Stream& stream, const AttentionPlan& plan, const Tensor& k, const Tensor& v,
                const Tensor& k_cache, const Tensor& v_cache) override;
  void attention(Stream& stream, const AttentionPlan& plan, const AttentionShape& shape,
                 const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                 const Tensor& out) override;
  void silu_mul(Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& out) override;
  void add(Stream& stream, const Tensor& x, const Tensor& y) override;
  void gather_rows(Stream& stream, const Tensor& x, std::span<const int32_t> rows,
                   const Tensor& y) override;
  void sample(Stream& stream, const Tensor& logits, std::span<const SampleParams> params,
              std::span<int32_t> tokens) override;

  CompressionOps& compression() override;
  TrainingOps& training() override;
  VisionOps& vision() override;

 private:
  ThreadPool pool_;
  cpu::Runtime runtime_;
  std::unique_ptr<CompressionOps> compression_;
  std::unique_ptr<TrainingOps> training_;
  std::unique_ptr<VisionOps> vision_;
};

}  // namespace deltacome
