// SPDX-License-Identifier: Apache-2.0
// The delta path of one decoder layer of Llama-2-7B (q, k, v, o, gate, up, down), replayed as a
// CUDA graph over weights that are cold: layers of several variants, several times the L2 cache in
// all. Prompts: many rows of one variant, by codes and decoded. Beside it, in the same run: the
// read roof of the device, the base's projections and fp16 low-rank factors in cuBLAS. delta_bench
// [--json FILE] [--quick] [--decode: deltas of one row of each variant only] [--hidden N: deltas of
// a layer of another width only, for several numbers of variants and rows]
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda/delta.h"
#include "backend/cuda/linear.h"
#include "backend/cuda/variant.h"
#include "backend/cuda/variant_plan.h"
#include "delta_data.h"
#include "read_roof.h"

namespace deltacome::bench {
namespace {

using cuda::bytes_of;
using cuda::CudaContext;
using cuda::CudaStream;
using cuda::CudaVariant;
using cuda::CudaVariantPlan;
using cuda::f32;

void check_cublas(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(ErrorCode::kDevice, "cuBLAS: status {}", static_cast<int>(status));
}

/// Median, 10th and 90th percentile of microseconds.
struct Timing {
  double median = 0, p10 = 0, p90 = 0;
};

class Bench {
 public:
  explicit Bench(bool quick) : samples_(quick ? 20 : 60) {
    context_.activate();
    cudaDeviceProp properties{};
    DELTACOME_CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
    size_t free = 0, total = 0;
    DELTACOME_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    name = properties.name;
    context_.n_sms = properties.multiProcessorCount;
    context_.l2_bytes = properties.l2CacheSize;
    context_.overlaps = properties.major >= 9;
    context_.memory = std::make_shared<cuda::DeviceMemory>(0, static_cast<int64_t>(free));
    context_.lt_matmul = std::make_shared<cuda::LtMatmul>(context_.memory);
    stream_ = std::make_unique<CudaStream>(context_.memory);
    check_cublas(cublasCreate(&cublas_));
    check_cublas(cublasSetStream(cublas_, stream_->get()));
    workspace_ = context_.allocate(DType::kU8, {32 << 20}, Purpose::kWeights);
    check_cublas(cublasSetWorkspace(cublas_, bytes_of(workspace_), 32 << 20));
  }
  ~Bench() { cublasDestroy(cublas_); }

  std::string name;
  std::vector<std::string> rows;  // JSON objects

  double read_roof() {
    const int64_t bytes = int64_t{2} << 30;
    const Tensor data = context_.allocate(DType::kU8, {bytes}, Purpose::kWeights);
    const Tensor out = context_.allocate(DType::kI32, {1});
    DELTACOME_CUDA_CHECK(
        cudaMemsetAsync(bytes_of(data), 0x5a, static_cast<size_t>(bytes), stream_->get()));
    const Timing t = time(1, [&](int64_t) {
      DELTACOME_CUDA_CHECK(launch_read(bytes_of(data), static_cast<size_t>(bytes), context_.n_sms,
                                       reinterpret_cast<int*>(bytes_of(out)), stream_->get()));
    });
    roof_ = static_cast<double>(bytes) / t.median / 1e6;
    report("read roof", "", 1, 1, bytes, t);
    return roof_;
  }

  /// The seven projections in fp16, `n` rows.
  void base(int64_t n) {
    int64_t bytes = 0;
    for (const MatrixShape& m : layer_matrices) bytes += 2 * m.n_out * m.n_in;
    const int64_t layers = std::max<int64_t>(2, 4 * context_.l2_bytes / bytes);
    const Tensor weights = random_halves(layers * bytes / 2);
    const Tensor x = random_halves(n * inner_size), y = random_halves(n * inner_size);
    const Timing t = time(layers, [&](int64_t layer) {
      const auto* w = reinterpret_cast<const uint16_t*>(bytes_of(weights)) + layer * bytes / 2;
      for (const MatrixShape& m : layer_matrices) {
        gemm(m.n_out, n, m.n_in, w, 0, bytes_of(x), 0, bytes_of(y), 0, 1);
        w += m.n_out * m.n_in;
      }
    });
    report("base, cuBLAS fp16", "", 0, n, bytes, t);
  }

  /// fp16 factors of the published ranks for `d` variants, one row each: batched products.
  void factors(int64_t d) {
    int64_t elements = 0;  // of one variant
    for (const MatrixShape& m : layer_matrices) elements += rank_of(m) * (m.n_out + m.n_in);
    const int64_t layers = std::max<int64_t>(1, 4 * context_.l2_bytes / (2 * elements * d) + 1);
    const Tensor weights = random_halves(layers * d * elements);
    const Tensor x = random_halves(d * inner_size), y = random_halves(d * inner_size),
                 z = random_halves(d * hidden_size);
    const Timing t = time(layers, [&](int64_t layer) {
      const auto* w = reinterpret_cast<const uint16_t*>(bytes_of(weights)) + layer * d * elements;
      for (const MatrixShape& m : layer_matrices) {
        const int64_t r = rank_of(m);
        gemm(r, 1, m.n_in, w, r * m.n_in, bytes_of(x), m.n_in, bytes_of(z), r, d);
        w += d * r * m.n_in;
        gemm(m.n_out, 1, r, w, m.n_out * r, bytes_of(z), r, bytes_of(y), m.n_out, d);
        w += d * r * m.n_out;
      }
    });
    report("factors, cuBLAS fp16 batched", "", d, 1, 2 * elements * d, t);
  }

  /// Deltas of one kind for `d` variants with `tokens` rows each.
  void deltas(const std::string& kind, int64_t d, int64_t tokens, const std::string& only = "") {
    make_variants(kind, d);
    std::vector<VariantSegment> segments;
    for (int64_t i = 0; i < d; ++i) segments.push_back({variants_[static_cast<size_t>(i)], tokens});
    const CudaVariantPlan plan(context_, segments, *stream_);
    const int64_t n = d * tokens;
    const Tensor x = random_floats(n * inner_size), y = random_floats(3 * n * inner_size);
    int64_t bytes = 0;
    for (int64_t i = 0; i < d; ++i) bytes += variants_[static_cast<size_t>(i)]->resident_bytes();
    const int64_t per_layer = bytes / layers_;
    const std::vector<Form> forms =
        only.empty() ? forms_for(kind, plan) : std::vector<Form>{{only, {}}};
    for (const Form& form : forms) {
      const Timing t = time(layers_, [&](int64_t layer) {
        for (const std::vector<int>& matrices : kCalls) {
          run_call(plan, matrices, layer, x, y, n, form);
        }
      });
      report(kind, form.name, d, tokens, per_layer, t);
    }
  }

  /// The projections of a layer by the backend with deltas of one row of each of `d` variants; d =
  /// 0: `rows` rows without.
  void layer(const std::string& kind, int64_t d, int64_t base_rows = 1) {
    if (d > 0) make_variants(kind, d);
    std::vector<VariantSegment> segments;
    for (int64_t i = 0; i < d; ++i) segments.push_back({variants_[static_cast<size_t>(i)], 1});
    const CudaVariantPlan plan(context_, segments, *stream_);
    const int64_t n = d == 0 ? base_rows : d, layers = d == 0 ? 4 : std::min<int64_t>(layers_, 4);
    cuda::BaseLinear linear(context_);
    std::vector<Tensor> weights;
    for (int64_t i = 0; i < layers; ++i) {
      for (const MatrixShape& m : layer_matrices) {
        Tensor w = random_halves(m.n_out * m.n_in).reshaped({m.n_out, m.n_in});
        w.dtype = DType::kBf16;
        weights.push_back(w);
      }
    }
    const Tensor x = random_floats(n * inner_size), y = random_floats(3 * n * inner_size);
    const Timing t = time(layers, [&](int64_t layer) {
      for (const std::vector<int>& matrices : kCalls) {
        std::vector<LinearTarget> targets;
        for (const int m : matrices) {
          LinearTarget target;
          target.slot = static_cast<int>(7 * layer) + m;
          target.weight = weights[static_cast<size_t>(target.slot)];
          const auto at = static_cast<int64_t>(targets.size()) * n * inner_size;
          target.y = y.slice(at, n * layer_matrices[static_cast<size_t>(m)].n_out)
                         .reshaped({n, layer_matrices[static_cast<size_t>(m)].n_out});
          targets.push_back(target);
        }
        const int64_t n_in = layer_matrices[static_cast<size_t>(matrices[0])].n_in;
        const Tensor in = x.slice(0, n * n_in).reshaped({n, n_in});
        const bool x_is_there = linear.run(*stream_, in, targets, d > 0);
        if (d > 0) cuda::add_deltas(context_, *stream_, plan, in, targets, x_is_there);
      }
    });
    int64_t bytes = 0;
    for (const MatrixShape& m : layer_matrices) bytes += 2 * m.n_out * m.n_in;
    report(d == 0 ? "base, backend bf16" : "layer with the base", kind, d, d == 0 ? base_rows : 1,
           bytes, t);
  }

  /// Many rows of one variant: codes multiplied as they are, or decoded for cuBLASLt so many bytes
  /// at a time.
  void prompts(const std::string& kind, int64_t tokens) {
    for (const int64_t mib : {int64_t{0}, int64_t{18}, int64_t{36}, int64_t{72}}) {
      if (mib == 0 && tokens > 512) continue;  // slow
      if (mib != 0 && mib != 36 && tokens != 2048) continue;
      context_.decode_rows = mib == 0 ? cuda::DecodeRows::never() : cuda::DecodeRows{1, 1, 1};
      context_.decoded_bytes = mib << 20;
      deltas(kind, 1, tokens, mib == 0 ? "codes" : "decoded, " + std::to_string(mib) + " MiB");
    }
  }

  /// The JSON file, and the table once more without what else was printed.
  int finish(const std::string& json) const {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    write(json, "\"gpu\": \"" + name + "\", \"hidden\": " + std::to_string(hidden_size) +
                    ", \"cuda_driver\": " + std::to_string(driver));
    std::printf("\n");
    print_table();
    return 0;
  }
  void write(const std::string& path, const std::string& head) const {
    std::ofstream out(path);
    out << "{" << head << ", \"rows\": [\n";
    for (size_t i = 0; i < rows.size(); ++i) out << rows[i] << (i + 1 < rows.size() ? ",\n" : "\n");
    out << "]}\n";
  }
  void print_table() const {
    std::printf("%-30s %-22s %5s %5s %10s %10s %10s %9s %8s\n", "what", "form", "vars", "rows",
                "us", "p10", "p90", "MB", "TB/s");
    for (const std::string& line : table_) std::printf("%s\n", line.c_str());
    std::printf("read roof %.2f TB/s on %s\n", roof_, name.c_str());
  }

 private:
  using Purpose = cuda::Purpose;
  /// How the kernels of a call are launched: changes to what add_deltas() does.
  struct Form {
    std::string name;
    std::function<void(cuda::DeltaLaunch&)> change;
    unsigned parts = ~0u;  // of CudaVariantPlan::Kinds
  };

  static std::vector<Form> forms_for(const std::string& kind, const CudaVariantPlan& plan) {
    using Launch = cuda::DeltaLaunch;
    std::vector<Form> forms = {{"", {}}};
    if (kind == "vector") {
      forms.push_back({"other overlap", [](Launch& how) { how.overlaps = !how.overlaps; }});
      forms.push_back({"inputs alone", {}, CudaVariantPlan::kVectorInputs});
      forms.push_back({"codes alone", {}, CudaVariantPlan::kVectors});
    }
    if (kind != "come" && kind != "auto") return forms;
    forms.push_back({"shrink alone", {}, CudaVariantPlan::kShrink});
    forms.push_back({"expand alone", {}, CudaVariantPlan::kExpand});
    if (plan.segment_tokens() > 1) return forms;
    forms.push_back({"no overlap", [](Launch& how) { how.overlaps = false; }});
    forms.push_back({"other inputs", [](Launch& how) { how.prepares = !how.prepares; }});
    return forms;
  }

  void run_call(const CudaVariantPlan& plan, const std::vector<int>& matrices, int64_t layer,
                const Tensor& x, const Tensor& y, int64_t n, const Form& form) {
    std::vector<int> slots;
    for (const int m : matrices) slots.push_back(static_cast<int>(7 * layer) + m);
    const MatrixShape& shape = layer_matrices[static_cast<size_t>(matrices[0])];
    CudaVariantPlan::Call call = plan.call(slots, shape.n_in, *stream_);
    cuda::DeltaBuffers buffers = plan.buffers(call, *stream_);
    buffers.x = f32(x);
    buffers.x_stride = shape.n_in;
    for (size_t i = 0; i < matrices.size(); ++i) {
      buffers.y[i] = f32(y) + static_cast<int64_t>(i) * n * inner_size;
      buffers.y_stride[i] = shape.n_out;
    }
    cuda::DeltaLaunch how = cuda::launch_of(context_, *stream_, plan, shape.n_in);
    if (form.change) form.change(how);
    call.kinds &= form.parts;
    cuda::launch_call(call, buffers, how);
    for (const cuda::PromptGroup& group : call.prompts)
      cuda::multiply_prompt(context_, *stream_, group, plan.order(), buffers, shape.n_in);
  }

  /// `d` variants of enough layers that all of them are several times the L2 cache. Their codes are
  /// equal, their memory is not.
  void make_variants(const std::string& kind, int64_t d) {
    const int64_t layers = std::max<int64_t>(1, (8 + d - 1) / d);
    if (kind == kind_ && layers == layers_ && d == static_cast<int64_t>(variants_.size())) return;
    variants_.clear();
    stream_->synchronize();
    kind_ = kind;
    layers_ = layers;
    std::vector<std::pair<MatrixFormat, HostTensor>> matrices;
    for (const MatrixShape& m : layer_matrices) {
      const MatrixFormat format = format_of(kind, m);
      validate(format, kind);
      matrices.emplace_back(format, blob_of(format));
    }
    for (int64_t i = 0; i < d; ++i) {
      variants_.push_back(std::make_shared<CudaVariant>(context_, static_cast<int>(7 * layers)));
      for (int64_t layer = 0; layer < layers; ++layer) {
        for (size_t m = 0; m < matrices.size(); ++m)
          variants_.back()->set(static_cast<int>(7 * layer) + static_cast<int>(m),
                                matrices[m].first, matrices[m].second, *stream_);
      }
    }
    stream_->synchronize();
  }

  Tensor random_halves(int64_t n) {
    const Tensor t = context_.allocate(DType::kF16, {n}, Purpose::kWeights);
    static const std::vector<uint16_t> piece = [] {
      std::vector<uint16_t> out;
      for (const float v : random_values(1 << 20)) out.push_back(float_to_f16(0.05F * v));
      return out;
    }();
    for (int64_t at = 0; at < n; at += 1 << 20) {
      const int64_t count = std::min<int64_t>(1 << 20, n - at);
      stream_->upload(std::as_bytes(std::span(piece).first(static_cast<size_t>(count))),
                      bytes_of(t) + 2 * at);
    }
    return t;
  }
  Tensor random_floats(int64_t n) {
    const Tensor t = context_.allocate(DType::kF32, {n}, Purpose::kWeights);
    const std::vector<float> values = random_values(n);
    stream_->upload(std::as_bytes(std::span(values)), bytes_of(t));
    return t;
  }

  /// y [batch][n][m] = x [batch][n][k] (w [batch][m][k])^T, row-major.
  void gemm(int64_t m, int64_t n, int64_t k, const void* w, int64_t w_stride, const void* x,
            int64_t x_stride, void* y, int64_t y_stride, int64_t batch) {
    const float one = 1, zero = 0;
    check_cublas(cublasGemmStridedBatchedEx(
        cublas_, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(m), static_cast<int>(n),
        static_cast<int>(k), &one, w, CUDA_R_16F, static_cast<int>(k), w_stride, x, CUDA_R_16F,
        static_cast<int>(k), x_stride, &zero, y, CUDA_R_16F, static_cast<int>(m), y_stride,
        static_cast<int>(batch), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  }

  /// Microseconds a layer of a graph of `layers` layers.
  Timing time(int64_t layers, const std::function<void(int64_t layer)>& run) {
    for (int64_t i = 0; i < layers; ++i) run(i);  // tables, attributes, cuBLAS' own choices
    stream_->synchronize();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    DELTACOME_CUDA_CHECK(cudaStreamBeginCapture(stream_->get(), cudaStreamCaptureModeThreadLocal));
    for (int64_t i = 0; i < layers; ++i) run(i);
    DELTACOME_CUDA_CHECK(cudaStreamEndCapture(stream_->get(), &graph));
    DELTACOME_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t begin, end;
    DELTACOME_CUDA_CHECK(cudaEventCreate(&begin));
    DELTACOME_CUDA_CHECK(cudaEventCreate(&end));
    std::vector<double> us;
    for (int i = -3; i < samples_; ++i) {
      DELTACOME_CUDA_CHECK(cudaEventRecord(begin, stream_->get()));
      DELTACOME_CUDA_CHECK(cudaGraphLaunch(exec, stream_->get()));
      DELTACOME_CUDA_CHECK(cudaEventRecord(end, stream_->get()));
      DELTACOME_CUDA_CHECK(cudaEventSynchronize(end));
      float ms = 0;
      DELTACOME_CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
      if (i >= 0) us.push_back(1e3 * static_cast<double>(ms) / static_cast<double>(layers));
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    std::ranges::sort(us);
    return {us[us.size() / 2], us[us.size() / 10], us[us.size() * 9 / 10]};
  }

  void report(const std::string& what, const std::string& form, int64_t d, int64_t tokens,
              int64_t bytes, const Timing& t) {
    const double rate = static_cast<double>(bytes) / t.median / 1e6;
    const double mb = static_cast<double>(bytes) / 1e6;
    char line[256];
    std::snprintf(line, sizeof line, "%-30s %-22s %5ld %5ld %10.2f %10.2f %10.2f %9.1f %8.3f",
                  what.c_str(), form.c_str(), static_cast<long>(d), static_cast<long>(tokens),
                  t.median, t.p10, t.p90, mb, rate);
    table_.emplace_back(line);
    std::printf("%s\n", line);
    std::fflush(stdout);
    std::snprintf(line, sizeof line,
                  R"({"what": "%s", "form": "%s", "variants": %ld, "rows_per_variant": %ld, )"
                  R"("us": %.3f, "p10": %.3f, "p90": %.3f, "bytes": %ld})",
                  what.c_str(), form.c_str(), static_cast<long>(d), static_cast<long>(tokens),
                  t.median, t.p10, t.p90, static_cast<long>(bytes));
    rows.emplace_back(line);
  }

  int samples_;
  CudaContext context_;
  std::unique_ptr<CudaStream> stream_;
  cublasHandle_t cublas_ = nullptr;
  Tensor workspace_;
  double roof_ = 0;
  std::vector<std::string> table_;
  std::string kind_;
  int64_t layers_ = 0;
  std::vector<std::shared_ptr<CudaVariant>> variants_;
};

int run(int argc, char** argv) {
  std::string json = "delta_bench.json";
  bool quick = false, decode = false;
  int64_t hidden = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) quick = true;
    if (std::strcmp(argv[i], "--decode") == 0) decode = true;
    if (std::strcmp(argv[i], "--hidden") == 0 && i + 1 < argc) hidden = std::stoll(argv[++i]);
    if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) json = argv[++i];
  }
  set_hidden_size(hidden > 0 ? hidden : 4096);
  Bench bench(quick);
  bench.read_roof();
  if (hidden > 0) {
    for (const std::string kind : {"come", "auto"}) {
      for (const int64_t d : {1, 4, 16}) bench.deltas(kind, d, 1, "all");
      for (const int64_t rows : {4, 16}) bench.deltas(kind, 1, rows, "all");
    }
    return bench.finish(json);
  }
  if (!decode) {
    for (const int64_t n : {1, 8, 64}) bench.base(n);
    for (const int64_t d : {1, 4, 16}) bench.factors(d);
  }
  for (const std::string kind : {"come", "vector", "auto"}) {
    for (const int64_t d : {1, 4, 16, 64}) {
      bench.deltas(kind, d, 1);
      if (decode) continue;
      if (d == 1 || d == 4) bench.deltas(kind, d, 8);
      if (d == 1 || d == 4) bench.deltas(kind, d, 16);
    }
  }
  for (const int64_t rows : {1, 4, 8, 16}) bench.layer("", 0, rows);
  for (const std::string kind : {"auto", "come"}) {
    for (const int64_t d : {1, 4, 8, 16}) bench.layer(kind, d);
  }
  for (const int64_t d : {1, 16}) bench.deltas("dense1", d, 1);
  for (const int64_t d : {1, 16}) bench.deltas("lora", d, 1);
  for (const std::string kind : {"come", "auto", "vector", "dense1"}) {
    if (decode) break;
    for (const int64_t tokens : {48, 128, 512, 2048}) bench.prompts(kind, tokens);
  }
  for (const int64_t n : {128, 512, 2048}) {
    if (decode) break;
    bench.base(n);
    bench.layer("", 0, n);
  }
  return bench.finish(json);
}

}  // namespace
}  // namespace deltacome::bench

int main(int argc, char** argv) {
  try {
    return deltacome::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "delta_bench: %s\n", error.what());
    return 1;
  }
}
