// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include "backend/backend.h"
#include "backend/cuda/attention.h"
#include "backend/cuda/compression.h"
#include "backend/cuda/delta.h"
#include "backend/cuda/elementwise.h"
#include "backend/cuda/linear.h"
#include "backend/cuda/rows.h"
#include "backend/cuda/sampler.h"
#include "backend/cuda/step_recorder.h"
#include "backend/cuda/training.h"
#include "backend/cuda/variant.h"
#include "backend/cuda/variant_plan.h"
#include "backend/cuda/vision_ops.h"

namespace deltacome {
namespace cuda {
namespace {

CudaContext open_device(const CudaOptions& options) {
  const int index = options.index;
  int count = 0;
  DELTACOME_CUDA_CHECK(cudaGetDeviceCount(&count));
  if (index < 0 || index >= count) {
    fail(ErrorCode::kDevice, "CUDA device {} was asked for, this machine has {}", index, count);
  }
  DELTACOME_CUDA_CHECK(cudaSetDevice(index));
  CudaContext context;
  context.device = index;
  context.deterministic = options.deterministic;
  int l2_bytes = 0, major = 0;
  DELTACOME_CUDA_CHECK(
      cudaDeviceGetAttribute(&context.n_sms, cudaDevAttrMultiProcessorCount, index));
  DELTACOME_CUDA_CHECK(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, index));
  context.l2_bytes = l2_bytes;
  DELTACOME_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  context.overlaps = major >= 9;
  size_t free = 0, total = 0;
  DELTACOME_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  const auto n_free = static_cast<int64_t>(free);
  if (options.memory_bytes > n_free) {
    fail(ErrorCode::kOutOfMemory,
         "{} bytes of device memory were asked for, CUDA device {} has {} free",
         options.memory_bytes, index, n_free);
  }
  context.memory = std::make_shared<DeviceMemory>(
      index, options.memory_bytes > 0 ? options.memory_bytes : n_free);
  context.lt_matmul = std::make_shared<LtMatmul>(context.memory);
  return context;
}

/// Checks, then hands each op to its file.
class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const CudaOptions& options)
      : context_(open_device(options)),
        order_(context_.memory),
        linear_(context_),
        coded_maker_(context_) {
    cudaDeviceProp properties{};
    DELTACOME_CUDA_CHECK(cudaGetDeviceProperties(&properties, context_.device));
    name_ = fmt::format("cuda:{} ({}{})", context_.device, properties.name,
                        options.deterministic ? ", deterministic" : "");
  }

  std::string name() const override { return name_; }
  bool uses_host_cores() const override { return false; }
  std::unique_ptr<Stream> create_stream() override {
    return std::make_unique<CudaStream>(context_.memory);
  }

  Tensor allocate(DType dtype, Shape shape) override {
    return context_.allocate(dtype, std::move(shape));
  }
  Tensor allocate_kv(DType dtype, Shape shape) override {
    return context_.allocate(dtype, std::move(shape), Purpose::kKvCache);
  }
  MemoryUse memory_use() const override { return context_.memory->use(); }
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
    if (format != WeightFormat::kBf16) {
      if (loading_ == nullptr) loading_ = std::make_unique<CudaStream>(context_.memory);
      return coded_maker_.from_weights(*loading_, host, format);
    }
    if (host.dtype == DType::kBf16) return import_weight(host);
    std::vector<std::byte> rounded(static_cast<size_t>(2 * host.size()));
    convert_from_float(host.to_float(), DType::kBf16, rounded.data());
    return import_weight(HostTensor::of(DType::kBf16, host.shape, std::move(rounded)));
  }
  QuantizedImport import_quantized(const QuantizedMatrix& matrix) override {
    if (loading_ == nullptr) loading_ = std::make_unique<CudaStream>(context_.memory);
    return coded_maker_.from_codes(*loading_, matrix);
  }
  void upload(Stream& stream, std::span<const std::byte> host, const Tensor& to) override {
    DELTACOME_CHECK(static_cast<int64_t>(host.size()) == to.bytes());
    on(stream).upload(host, bytes_of(to));
  }
  void download(Stream& stream, const Tensor& from, std::span<std::byte> host) override {
    DELTACOME_CHECK(static_cast<int64_t>(host.size()) == from.bytes());
    on(stream).download(bytes_of(from), host);
  }

  std::shared_ptr<DeviceVariant> create_variant(int n_slots) override {
    return std::make_shared<CudaVariant>(context_, n_slots);
  }
  std::unique_ptr<VariantPlan> plan_variants(std::span<const VariantSegment> segments) override {
    if (loading_ == nullptr) loading_ = std::make_unique<CudaStream>(context_.memory);
    order_.enter(*loading_);  // its tables may lie where an op before still reads
    return std::make_unique<CudaVariantPlan>(context_, segments, *loading_);
  }

  void embed(Stream& stream, const VariantPlan& plan, int slot, std::span<const int32_t> ids,
             const Tensor& table, const Tensor& y) override {
    const CudaVariantPlan& variants = cuda_plan(plan);
    const auto n = static_cast<int64_t>(ids.size());
    DELTACOME_CHECK(variants.n_rows() == n && y.rows() == n);
    if (n == 0) return;
    DELTACOME_CHECK(y.cols() == table.cols());
    for (int64_t row = 0; row < n; ++row) {
      const int32_t id = ids[static_cast<size_t>(row)];
      const int64_t n_ids = variants.n_ids(slot, row, table.rows());
      if (id >= 0 && id < n_ids) continue;
      fail(ErrorCode::kInvalidArgument, "token id {} of row {}, expected 0 to {}", id, row,
           n_ids - 1);
    }
    const Tensor on_device = context_.to_device(on(stream), std::as_bytes(ids), DType::kI32);
    DELTACOME_CUDA_CHECK(
        launch_embed(matrix_of(table), i32(on_device), n, f32(y), on(stream).get()));
    if (!variants.base_only())
      embed_deltas(context_, on(stream), variants, slot, i32(on_device), y);
  }
  void rms_norm(Stream& stream, const VariantPlan& plan, int slot, const Tensor& x,
                const Tensor& weight, double eps, const Tensor& y) override {
    norm(stream, plan, slot, Tensor(), x, weight, eps, y);
  }
  void add_rms_norm(Stream& stream, const VariantPlan& plan, int slot, const Tensor& x,
                    const Tensor& y, const Tensor& weight, double eps, const Tensor& z) override {
    DELTACOME_CHECK(x.shape == y.shape && z.storage != y.storage);
    norm(stream, plan, slot, x, y, weight, eps, z);
  }
  void linear(Stream& stream, const VariantPlan& plan, const Tensor& x,
              std::span<const LinearTarget> targets) override {
    if (x.rows() == 0 || targets.empty()) return;
    const CudaVariantPlan& variants = cuda_plan(plan);
    DELTACOME_CHECK(variants.n_rows() == x.rows());
    CudaStream& queue = on(stream);
    const bool deltas = !variants.base_only();
    const bool x_is_there = linear_.run(queue, x, targets, deltas);
    if (deltas) add_deltas(context_, queue, variants, x, targets, x_is_there);
    add_biases(queue, variants, targets);
  }
  std::unique_ptr<AttentionPlan> plan_attention(std::span<const SequenceChunk> chunks) override {
    return std::make_unique<CudaAttentionPlan>(context_, chunks);
  }
  void rope(Stream& stream, const AttentionPlan& plan, const Tensor& x,
            const Tensor& inv_freq) override {
    if (x.rows() > 0) cuda::rope(on(stream), cuda_plan(plan), x, inv_freq);
  }
  void store_kv(Stream& stream, const AttentionPlan& plan, const Tensor& k, const Tensor& v,
                const Tensor& k_cache, const Tensor& v_cache) override {
    if (k.rows() == 0) return;
    cuda::store_kv(on(stream), cuda_plan(plan), k, v, k_cache, v_cache);
  }
  void rope_and_store(Stream& stream, const AttentionPlan& plan, const Tensor& q, const Tensor& k,
                      const Tensor& v, const Tensor& inv_freq, const Tensor& k_cache,
                      const Tensor& v_cache) override {
    if (k.rows() == 0) return;
    cuda::rope_and_store(on(stream), cuda_plan(plan), q, k, v, inv_freq, k_cache, v_cache);
  }
  void attention(Stream& stream, const AttentionPlan& plan, const AttentionShape& shape,
                 const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                 const Tensor& out) override {
    if (q.rows() == 0) return;
    cuda::attention(on(stream), cuda_plan(plan), shape, q, k_cache, v_cache, out);
  }
  void silu_mul(Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& out) override {
    DELTACOME_CHECK(gate.size() == up.size() && gate.size() == out.size());
    DELTACOME_CUDA_CHECK(launch_silu_mul(f32(gate), f32(up), f32(out), out.size(),
                                         context_.overlaps, on(stream).get()));
  }
  void add(Stream& stream, const Tensor& x, const Tensor& y) override {
    DELTACOME_CHECK(x.size() == y.size());
    DELTACOME_CUDA_CHECK(launch_add(f32(x), f32(y), y.size(), context_.overlaps, on(stream).get()));
  }
  void gather_rows(Stream& stream, const Tensor& x, std::span<const int32_t> rows,
                   const Tensor& y) override {
    DELTACOME_CHECK(static_cast<int64_t>(rows.size()) == y.rows());
    if (rows.empty()) return;
    DELTACOME_CHECK(x.cols() == y.cols());
    for (const int32_t row : rows) DELTACOME_CHECK(row >= 0 && row < x.rows());
    const Tensor on_device = context_.to_device(on(stream), std::as_bytes(rows), DType::kI32);
    DELTACOME_CUDA_CHECK(
        launch_gather_rows(f32(x), i32(on_device), f32(y), y.rows(), y.cols(), on(stream).get()));
  }
  void sample(Stream& stream, const Tensor& logits, std::span<const SampleParams> params,
              std::span<int32_t> tokens) override {
    cuda::sample(context_, on(stream), logits, params, tokens);
  }

  std::unique_ptr<StepRecorder> create_step_recorder() override {
    return std::make_unique<CudaStepRecorder>(context_, order_);
  }

  // Made when they are wanted: their libraries take memory.
  CompressionOps& compression() override {
    context_.activate();
    if (compression_ == nullptr) compression_ = create_compression_ops(context_, order_);
    return *compression_;
  }
  TrainingOps& training() override {
    context_.activate();
    if (training_ == nullptr) training_ = create_training_ops(context_, order_);
    return *training_;
  }
  VisionOps& vision() override {
    if (vision_ == nullptr)
      vision_ = create_vision_ops([this](Stream& stream) -> CudaStream& { return on(stream); });
    return *vision_;
  }

 private:
  /// `added`: to x first, or empty.
  void norm(Stream& stream, const VariantPlan& plan, int slot, const Tensor& added, const Tensor& x,
            const Tensor& weight, double eps, const Tensor& y) {
    const int64_t d = weight.size();
    DELTACOME_CHECK(cuda_plan(plan).n_rows() == x.rows() && y.shape == x.shape);
    DELTACOME_CHECK(d > 0 && x.cols() % d == 0);
    DELTACOME_CUDA_CHECK(launch_rms_norm({.added = added.empty() ? nullptr : f32(added),
                                          .x = f32(x),
                                          .y = f32(y),
                                          .weight = bytes_of(weight),
                                          .type = element_of(weight.dtype),
                                          .own = cuda_plan(plan).raw_rows(slot),
                                          .n_rows = x.rows(),
                                          .per_row = x.cols() / d,
                                          .d = d,
                                          .eps = eps,
                                          .overlaps = context_.overlaps},
                                         on(stream).get()));
  }

  /// The stream, after all that ops were put on before; its device becomes the thread's current
  /// one.
  CudaStream& on(Stream& stream) {
    context_.activate();
    order_.enter(cuda_stream(stream));
    return cuda_stream(stream);
  }

  CudaContext context_;
  StreamOrder order_;
  BaseLinear linear_;
  CodedMaker coded_maker_;
  std::unique_ptr<VisionOps> vision_;
  std::unique_ptr<CudaStream> loading_;  // of imported weights
  std::unique_ptr<CompressionOps> compression_;
  std::unique_ptr<TrainingOps> training_;
  std::string name_;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<Backend> create_cuda_backend(const CudaOptions& options) {
  return std::make_unique<cuda::CudaBackend>(options);
}

}  // namespace deltacome
