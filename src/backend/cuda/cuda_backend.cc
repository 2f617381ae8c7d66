// SPDX-License-Identifier: Apache-2.0
// The CUDA backend so far: memory, streams and the elementwise ops. What it does not have yet
// throws kUnsupported by name; docs/architecture.md lists it.
#include <cuda_runtime.h>

#include "backend/backend.h"
#include "backend/cuda/context.h"
#include "backend/cuda/cuda_check.h"
#include "backend/cuda/elementwise.h"
#include "backend/cuda/variant_plan.h"

namespace deltacome {
namespace cuda {
namespace {

[[noreturn]] void not_yet(const char* op) {
  fail(ErrorCode::kUnsupported, "the CUDA backend does not have {} yet; run on the CPU", op);
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int index) {
    int count = 0;
    DELTACOME_CUDA_CHECK(cudaGetDeviceCount(&count));
    if (index < 0 || index >= count) {
      fail(ErrorCode::kDevice, "CUDA device {} was asked for, this machine has {}", index, count);
    }
    context_.device = index;
    context_.activate();
    cudaDeviceProp properties{};
    DELTACOME_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
    size_t free = 0, total = 0;
    DELTACOME_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    context_.n_sms = properties.multiProcessorCount;
    context_.l2_bytes = properties.l2CacheSize;
    context_.memory = std::make_shared<DeviceMemory>(index, static_cast<int64_t>(free));
    name_ = fmt::format("cuda:{} ({})", index, properties.name);
  }

  std::string name() const override { return name_; }
  std::unique_ptr<Stream> create_stream() override {
    return std::make_unique<CudaStream>(context_.memory);
  }

  Tensor allocate(DType dtype, Shape shape) override {
    return context_.allocate(dtype, std::move(shape));
  }
  Tensor import_weight(const HostTensor& host) override {
    const Tensor tensor = context_.allocate(host.dtype, host.shape, Purpose::kWeights);
    DELTACOME_CHECK(static_cast<int64_t>(host.bytes.size()) == tensor.bytes());
    if (loading_ == nullptr) loading_ = std::make_unique<CudaStream>(context_.memory);
    loading_->upload(host.bytes, bytes_of(tensor));
    loading_->synchronize();  // other streams do not wait for this one
    return tensor;
  }
  Tensor import_projection(const HostTensor& host, WeightFormat format) override {
    if (format == WeightFormat::kStored) return import_weight(host);
    fail(ErrorCode::kUnsupported, "quantized weights of the base on {}", name());
  }
  void upload(Stream& stream, std::span<const std::byte> host, const Tensor& to) override {
    DELTACOME_CHECK(static_cast<int64_t>(host.size()) == to.bytes());
    cuda_stream(stream).upload(host, bytes_of(to));
  }
  void download(Stream& stream, const Tensor& from, std::span<std::byte> host) override {
    DELTACOME_CHECK(static_cast<int64_t>(host.size()) == from.bytes());
    cuda_stream(stream).download(bytes_of(from), host);
  }

  void silu_mul(Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& out) override {
    DELTACOME_CHECK(gate.size() == up.size() && gate.size() == out.size());
    DELTACOME_CUDA_CHECK(launch_silu_mul(f32(gate), f32(up), f32(out), out.size(), raw(stream)));
  }
  void add(Stream& stream, const Tensor& x, const Tensor& y) override {
    DELTACOME_CHECK(x.size() == y.size());
    DELTACOME_CUDA_CHECK(launch_add(f32(x), f32(y), y.size(), raw(stream)));
  }
  void gather_rows(Stream& stream, const Tensor& x, std::span<const int32_t> rows,
                   const Tensor& y) override {
    DELTACOME_CHECK(static_cast<int64_t>(rows.size()) == y.rows() && x.cols() == y.cols());
    const Tensor ids = allocate(DType::kI32, {y.rows()});
    upload(stream, std::as_bytes(rows), ids);
    DELTACOME_CUDA_CHECK(launch_gather_rows(f32(x), reinterpret_cast<const int32_t*>(bytes_of(ids)),
                                            f32(y), y.rows(), y.cols(), raw(stream)));
  }

  std::shared_ptr<DeviceVariant> create_variant(int n_slots) override {
    return std::make_shared<CudaVariant>(context_, n_slots);
  }
  std::unique_ptr<VariantPlan> plan_variants(std::span<const VariantSegment> segments) override {
    if (loading_ == nullptr) loading_ = std::make_unique<CudaStream>(context_.memory);
    auto plan = std::make_unique<CudaVariantPlan>(context_, segments, *loading_);
    loading_->synchronize();  // other streams do not wait for this one
    return plan;
  }
  void embed(Stream&, const VariantPlan&, int, std::span<const int32_t>, const Tensor&,
             const Tensor&) override {
    not_yet("embed");
  }
  void rms_norm(Stream&, const VariantPlan&, int, const Tensor&, const Tensor&, double,
                const Tensor&) override {
    not_yet("rms_norm");
  }
  void linear(Stream&, const VariantPlan&, const Tensor&, std::span<const LinearTarget>) override {
    not_yet("linear");
  }
  std::unique_ptr<AttentionPlan> plan_attention(std::span<const SequenceChunk>) override {
    not_yet("attention");
  }
  void rope(Stream&, const AttentionPlan&, const Tensor&, const Tensor&) override {
    not_yet("rope");
  }
  void store_kv(Stream&, const AttentionPlan&, const Tensor&, const Tensor&, const Tensor&,
                const Tensor&) override {
    not_yet("attention");
  }
  void attention(Stream&, const AttentionPlan&, const AttentionShape&, const Tensor&, const Tensor&,
                 const Tensor&, const Tensor&) override {
    not_yet("attention");
  }
  void sample(Stream&, const Tensor&, std::span<const SampleParams>, std::span<int32_t>) override {
    not_yet("sample");
  }
  CompressionOps& compression() override { not_yet("compression"); }
  TrainingOps& training() override { not_yet("training"); }

 private:
  CudaContext context_;
  std::unique_ptr<CudaStream> loading_;  // of imported weights
  std::string name_;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<Backend> create_cuda_backend(int index) {
  return std::make_unique<cuda::CudaBackend>(index);
}

}  // namespace deltacome
