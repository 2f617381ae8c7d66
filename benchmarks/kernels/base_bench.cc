// SPDX-License-Identifier: Apache-2.0
// What the base costs on the GPU, at the shapes of Llama-2-7B: projections of a decoder layer for
// few and many rows beside cuBLAS, attention, the small ops, sampling. Each measurement is a CUDA
// graph over layers whose weights are cold (several times the L2 cache).
//   base_bench [bf16|f16]
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "backend/cuda/linear.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/skinny.h"

namespace deltacome::bench {
namespace {

using cuda::bytes_of;
using cuda::f32;

constexpr int64_t kHidden = 4096, kInner = 11008, kVocab = 32000;
constexpr int kLayers = 8;  // 3.2 GB of weights
constexpr int kReplays = 30;

/// Matrices [n_out, n_in] of a call, which share an input.
const std::vector<std::vector<std::pair<int64_t, int64_t>>> kCalls = {
    {{kHidden, kHidden}, {kHidden, kHidden}, {kHidden, kHidden}},
    {{kHidden, kHidden}},
    {{kInner, kHidden}, {kInner, kHidden}},
    {{kHidden, kInner}}};

HostTensor random_matrix(DType dtype, int64_t n_out, int64_t n_in) {
  static uint32_t state = 1;
  std::vector<uint16_t> values(static_cast<size_t>(n_out * n_in));
  const uint16_t one = dtype == DType::kBf16 ? 0x3c00 : 0x2000;  // about 0.008
  for (uint16_t& v : values) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<uint16_t>(one + (state >> 25) + ((state >> 9) & 0x8000u));  // sign, mantissa
  }
  return HostTensor::of(dtype, {n_out, n_in}, std::move(values));
}

class Bench {
 public:
  explicit Bench(DType dtype)
      : backend_(create_cuda_backend()), stream_(backend_->create_stream()), dtype_(dtype) {
    int major = 0;
    cudaDeviceGetAttribute(&n_sms_, cudaDevAttrMultiProcessorCount, 0);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    overlaps_ = major >= 9;
    std::printf("%s, weights %s\n", backend_->name().c_str(),
                std::string(dtype_name(dtype)).c_str());
    std::vector<std::vector<HostTensor>> host;
    for (const auto& call : kCalls) {
      host.emplace_back();
      for (const auto& [n_out, n_in] : call)
        host.back().push_back(random_matrix(dtype, n_out, n_in));
    }
    for (int layer = 0; layer < kLayers; ++layer) {
      weights_.emplace_back();
      for (const auto& call : host) {
        weights_.back().emplace_back();
        for (const HostTensor& w : call) {
          weights_.back().back().push_back(backend_->import_projection(w, WeightFormat::kStored));
          if (layer == 0) layer_bytes_ += weights_.back().back().back().bytes();
        }
      }
    }
  }

  void projections() {
    std::printf("\nprojections of a layer: us, TB/s (weights)\n%5s", "rows");
    for (const char* name : {"cuBLAS", "backend", "own kernel"}) std::printf("%18s", name);
    std::printf("\n");
    for (const int64_t n : {1, 2, 4, 8, 16, 32, 64, 256, 2048}) {
      make_activations(n);
      std::printf("%5ld", static_cast<long>(n));
      print_layer(time([&] { cublas_layers(n); }));
      print_layer(time([&] { backend_layers(n); }));
      if (n <= cuda::kSkinnyRows) print_layer(time([&] { skinny_layers(n); }));
      std::printf("\n");
    }
  }

  void attention() {
    std::printf("\nattention of one layer, heads of 128: us, TB/s (keys and values)\n");
    for (const int64_t kv_heads : {32, 8}) {
      for (const DType type : {DType::kF32, DType::kBf16, DType::kU8}) {
        for (const int64_t n : {1, 16, 64}) attend(kv_heads, type, n, 1, 1023);
        attend(kv_heads, type, 1, 1, 16383);
        attend(kv_heads, type, 1, 2048, 0);
      }
    }
  }

  void small_ops() {
    std::printf("\nsmall ops, one row of hidden size: us each in a graph\n");
    make_activations(1);
    const auto plan = base_plan(1);
    const Tensor norm =
        backend_->import_weight(random_matrix(dtype_, 1, kHidden)).reshaped({kHidden});
    const std::vector<int32_t> blocks = {0};
    const SequenceChunk chunk{1, 5, blocks};
    const auto at = backend_->plan_attention({&chunk, 1});
    const Tensor freq = put({64});
    const Tensor cache = backend_->allocate(DType::kBf16, {4, kKvBlock, kHidden});
    const Tensor x = put({1, kHidden}), y = put({1, kHidden});
    const auto each = [&](const char* name, const std::function<void()>& op) {
      constexpr int kTimes = 64;
      const double us = time([&] {
        for (int i = 0; i < kTimes; ++i) op();
      });
      std::printf("%-10s %6.2f\n", name, us / kTimes);
    };
    each("rms_norm", [&] { backend_->rms_norm(*stream_, *plan, 0, x, norm, 1e-5, y); });
    each("rope", [&] { backend_->rope(*stream_, *at, x, freq); });
    each("store_kv", [&] { backend_->store_kv(*stream_, *at, x, y, cache, cache); });
    each("silu_mul", [&] { backend_->silu_mul(*stream_, x, y, y); });
    each("add", [&] { backend_->add(*stream_, x, y); });
  }

  void sampling() {
    std::printf("\nsampling, to the tokens on the host: us\n");
    for (const int64_t vocab : {kVocab, int64_t{152064}}) {
      for (const int64_t n : {1, 64}) {
        const Tensor logits = put({n, vocab}, 4);
        for (const float temperature : {0.0f, 0.8f}) {
          std::vector<SampleParams> params(static_cast<size_t>(n));
          for (SampleParams& p : params) {
            p.temperature = temperature;
            p.top_p = 0.95f;
            p.uniform = 0.6;
            p.vocab_size = vocab;
          }
          std::vector<int32_t> tokens(params.size());
          const double us =
              time_events([&] { backend_->sample(*stream_, logits, params, tokens); });
          std::printf("vocabulary %6ld, %2ld rows, temperature %.1f: %8.1f\n",
                      static_cast<long>(vocab), static_cast<long>(n),
                      static_cast<double>(temperature), us);
        }
      }
    }
  }

 private:
  cudaStream_t raw() { return cuda::raw(*stream_); }

  Tensor put(Shape shape, float scale = 1) {
    std::vector<float> values(static_cast<size_t>(element_count(shape)));
    uint32_t state = 7;
    for (float& v : values) {
      state = state * 1664525u + 1013904223u;
      v = scale * (static_cast<float>(state >> 8) * 0x1p-23f - 1);
    }
    const Tensor t = backend_->allocate(DType::kF32, std::move(shape));
    backend_->upload(*stream_, std::as_bytes(std::span(values)), t);
    return t;
  }
  std::unique_ptr<VariantPlan> base_plan(int64_t n) {
    const VariantSegment segment{nullptr, n};
    return backend_->plan_variants({&segment, 1});
  }

  /// Median microseconds of `work`, by events.
  double time_events(const std::function<void()>& work) {
    cudaEvent_t begin = nullptr, end = nullptr;
    DELTACOME_CUDA_CHECK(cudaEventCreate(&begin));
    DELTACOME_CUDA_CHECK(cudaEventCreate(&end));
    std::vector<float> ms;
    for (int i = 0; i < kReplays + 3; ++i) {
      DELTACOME_CUDA_CHECK(cudaEventRecord(begin, raw()));
      work();
      DELTACOME_CUDA_CHECK(cudaEventRecord(end, raw()));
      DELTACOME_CUDA_CHECK(cudaEventSynchronize(end));
      ms.push_back(0);
      DELTACOME_CUDA_CHECK(cudaEventElapsedTime(&ms.back(), begin, end));
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    ms.erase(ms.begin(), ms.begin() + 3);  // warm-up
    std::ranges::nth_element(ms, ms.begin() + kReplays / 2);
    return 1e3 * static_cast<double>(ms[kReplays / 2]);
  }
  /// The same as a graph.
  double time(const std::function<void()>& work) {
    work();  // what is allocated on first use
    stream_->synchronize();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t run = nullptr;
    DELTACOME_CUDA_CHECK(cudaStreamBeginCapture(raw(), cudaStreamCaptureModeThreadLocal));
    work();
    DELTACOME_CUDA_CHECK(cudaStreamEndCapture(raw(), &graph));
    DELTACOME_CUDA_CHECK(cudaGraphInstantiate(&run, graph, 0));
    const double us = time_events([&] { DELTACOME_CUDA_CHECK(cudaGraphLaunch(run, raw())); });
    cudaGraphExecDestroy(run);
    cudaGraphDestroy(graph);
    return us;
  }

  void print_layer(double us) {
    us /= kLayers;
    std::printf("%10.1f %7.2f", us, static_cast<double>(layer_bytes_) / us * 1e-6);
  }

  void make_activations(int64_t n) {
    x_ = {put({n, kHidden}), put({n, kHidden}), put({n, kHidden}), put({n, kInner})};
    half_ = backend_->allocate(dtype_, {n, kInner});
    DELTACOME_CUDA_CHECK(
        cudaMemsetAsync(bytes_of(half_), 0x3c, static_cast<size_t>(half_.bytes()), raw()));
    y_.clear();
    for (const auto& call : kCalls) {
      y_.emplace_back();
      for (const auto& [n_out, n_in] : call)
        y_.back().push_back(backend_->allocate(DType::kF32, {n, n_out}));
    }
    plan_ = base_plan(n);
  }

  void backend_layers(int64_t) {
    for (const auto& layer : weights_) {
      for (size_t c = 0; c < kCalls.size(); ++c) {
        std::vector<LinearTarget> targets;
        for (size_t m = 0; m < layer[c].size(); ++m) {
          targets.emplace_back();
          targets.back().slot = static_cast<int>(m);
          targets.back().weight = layer[c][m];
          targets.back().y = y_[c][m];
        }
        backend_->linear(*stream_, *plan_, x_[c], targets);
      }
    }
  }
  void skinny_layers(int64_t n) {
    for (const auto& layer : weights_) {
      for (size_t c = 0; c < kCalls.size(); ++c) {
        cuda::Skinny args;
        for (size_t m = 0; m < layer[c].size(); ++m) {
          args.targets[args.n_targets++] = {bytes_of(layer[c][m]), f32(y_[c][m]),
                                            layer[c][m].rows(), layer[c][m].rows()};
        }
        args.type = cuda::element_of(dtype_);
        args.x = f32(x_[c]);
        args.n_rows = static_cast<int>(n);
        args.n_in = x_[c].cols();
        args.overlaps = overlaps_;
        DELTACOME_CUDA_CHECK(cuda::launch_skinny(args, n_sms_, raw()));
      }
    }
  }
  void cublas_layers(int64_t n) {
    if (blas_ == nullptr) {
      cublasCreate(&blas_);
      DELTACOME_CUDA_CHECK(cudaMalloc(&blas_workspace_, size_t{32} << 20));
    }
    cublasSetStream(blas_, raw());
    cublasSetWorkspace(blas_, blas_workspace_, size_t{32} << 20);
    const cudaDataType_t type = dtype_ == DType::kBf16 ? CUDA_R_16BF : CUDA_R_16F;
    const float one = 1, zero = 0;
    for (const auto& layer : weights_) {
      for (size_t c = 0; c < kCalls.size(); ++c) {
        for (size_t m = 0; m < layer[c].size(); ++m) {
          const auto n_out = static_cast<int>(layer[c][m].rows());
          const auto n_in = static_cast<int>(layer[c][m].cols());
          const cublasStatus_t status = cublasGemmEx(
              blas_, CUBLAS_OP_T, CUBLAS_OP_N, n_out, static_cast<int>(n), n_in, &one,
              bytes_of(layer[c][m]), type, n_in, bytes_of(half_), type, n_in, &zero, f32(y_[c][m]),
              CUDA_R_32F, n_out, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
          if (status != CUBLAS_STATUS_SUCCESS)
            fail(ErrorCode::kDevice, "cublasGemmEx: status {}", static_cast<int>(status));
        }
      }
    }
  }

  void attend(int64_t kv_heads, DType type, int64_t n, int64_t n_rows, int64_t n_past) {
    const AttentionShape shape{32, kv_heads, 128, 0};
    const int64_t per_sequence = (n_past + n_rows + kKvBlock - 1) / kKvBlock;
    // Layers of their own until they are more than the L2 cache holds.
    const int64_t row = kv_row(type, kv_heads, 128);
    const int64_t bytes = 2 * n * (n_past + n_rows) * row * dtype_bytes(type);
    const auto layers = static_cast<int>(std::clamp<int64_t>((200 << 20) / bytes + 1, 1, 16));
    std::vector<std::vector<int32_t>> tables;
    std::vector<SequenceChunk> chunks;
    for (int64_t i = 0; i < n; ++i) {
      tables.emplace_back(static_cast<size_t>(per_sequence));
      std::iota(tables.back().begin(), tables.back().end(), static_cast<int32_t>(i * per_sequence));
    }
    for (const auto& table : tables) chunks.push_back({n_rows, n_past, table});
    const auto plan = backend_->plan_attention(chunks);
    const Tensor q = put({n * n_rows, 4096}), out = put({n * n_rows, 4096});
    std::vector<Tensor> caches;
    for (int i = 0; i < 2 * layers; ++i) {
      caches.push_back(backend_->allocate(type, {n * per_sequence, kKvBlock, row}));
      DELTACOME_CUDA_CHECK(cudaMemsetAsync(bytes_of(caches.back()), 0x3c,
                                           static_cast<size_t>(caches.back().bytes()), raw()));
    }
    const double us =
        time([&] {
          for (int i = 0; i < layers; ++i) {
            backend_->attention(*stream_, *plan, shape, q, caches[static_cast<size_t>(2 * i)],
                                caches[static_cast<size_t>(2 * i + 1)], out);
          }
        }) /
        layers;
    const double flops = 4.0 * 4096 * static_cast<double>(n * n_rows) *
                         (static_cast<double>(n_past) + static_cast<double>(n_rows + 1) / 2);
    std::printf(
        "kv heads %2ld %4s, %2ld sequences of %4ld + %5ld: %8.1f us %6.2f TB/s %6.1f TFLOP/s\n",
        static_cast<long>(kv_heads), std::string(dtype_name(type)).c_str(), static_cast<long>(n),
        static_cast<long>(n_rows), static_cast<long>(n_past), us,
        static_cast<double>(bytes) / us * 1e-6, flops / us * 1e-6);
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  DType dtype_;
  int n_sms_ = 0;
  bool overlaps_ = false;
  int64_t layer_bytes_ = 0;
  std::vector<std::vector<std::vector<Tensor>>> weights_;  // [layer][call][matrix]
  std::vector<Tensor> x_;                                  // [call]
  Tensor half_;
  std::vector<std::vector<Tensor>> y_;  // [call][matrix]
  std::unique_ptr<VariantPlan> plan_;
  cublasHandle_t blas_ = nullptr;
  void* blas_workspace_ = nullptr;
};

}  // namespace
}  // namespace deltacome::bench

int main(int argc, char** argv) {
  try {
    const bool f16 = argc > 1 && std::strcmp(argv[1], "f16") == 0;
    deltacome::bench::Bench bench(f16 ? deltacome::DType::kF16 : deltacome::DType::kBf16);
    bench.projections();
    bench.small_ops();
    bench.attention();
    bench.sampling();
    return 0;
  } catch (const deltacome::Error& error) {
    std::fprintf(stderr, "base_bench: %s\n", error.what());
    return 1;
  }
}
