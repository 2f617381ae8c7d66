// SPDX-License-Identifier: Apache-2.0
// What the base costs on the GPU, at the shapes of Llama-2-7B: projections of a decoder layer for
// few and many rows beside cuBLAS, attention, the small ops, sampling. Each measurement is a CUDA
// graph over layers whose weights are cold (several times the L2 cache).
//   base_bench [bf16|f16] [projections]    the projections alone
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "projection_bench.h"

namespace deltacome::bench {
namespace {

using cuda::bytes_of;

constexpr int64_t kHidden = 4096, kVocab = 32000;

class Bench {
 public:
  explicit Bench(BenchDevice& device)
      : device_(device), backend_(*device.backend), stream_(*device.stream) {}

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
    const auto plan = device_.base_plan(1);
    const Tensor norm =
        backend_.import_weight(BenchDevice::random_matrix(device_.dtype, 1, kHidden))
            .reshaped({kHidden});
    const std::vector<int32_t> blocks = {0};
    const SequenceChunk chunk{1, 5, blocks};
    const auto at = backend_.plan_attention({&chunk, 1});
    const Tensor freq = device_.put({64});
    const Tensor cache = backend_.allocate(DType::kBf16, {4, kKvBlock, kHidden});
    const Tensor x = device_.put({1, kHidden}), y = device_.put({1, kHidden});
    const auto each = [&](const char* name, const std::function<void()>& op) {
      constexpr int kTimes = 64;
      const double us = device_.time([&] {
        for (int i = 0; i < kTimes; ++i) op();
      });
      std::printf("%-10s %6.2f\n", name, us / kTimes);
    };
    each("rms_norm", [&] { backend_.rms_norm(stream_, *plan, 0, x, norm, 1e-5, y); });
    each("rope", [&] { backend_.rope(stream_, *at, x, freq); });
    each("store_kv", [&] { backend_.store_kv(stream_, *at, x, y, cache, cache); });
    each("silu_mul", [&] { backend_.silu_mul(stream_, x, y, y); });
    each("add", [&] { backend_.add(stream_, x, y); });
  }

  void sampling() {
    std::printf("\nsampling, to the tokens on the host: us\n");
    for (const int64_t vocab : {kVocab, int64_t{152064}}) {
      for (const int64_t n : {1, 64}) {
        const Tensor logits = device_.put({n, vocab}, 4);
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
              device_.time_events([&] { backend_.sample(stream_, logits, params, tokens); });
          std::printf("vocabulary %6ld, %2ld rows, temperature %.1f: %8.1f\n",
                      static_cast<long>(vocab), static_cast<long>(n),
                      static_cast<double>(temperature), us);
        }
      }
    }
  }

 private:
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
    const auto plan = backend_.plan_attention(chunks);
    const Tensor q = device_.put({n * n_rows, 4096}), out = device_.put({n * n_rows, 4096});
    std::vector<Tensor> caches;
    for (int i = 0; i < 2 * layers; ++i) {
      caches.push_back(backend_.allocate(type, {n * per_sequence, kKvBlock, row}));
      DELTACOME_CUDA_CHECK(cudaMemsetAsync(bytes_of(caches.back()), 0x3c,
                                           static_cast<size_t>(caches.back().bytes()),
                                           device_.raw()));
    }
    const double us = device_.time([&] {
      for (int i = 0; i < layers; ++i) {
        backend_.attention(stream_, *plan, shape, q, caches[static_cast<size_t>(2 * i)],
                           caches[static_cast<size_t>(2 * i + 1)], out);
      }
    }) / layers;
    const double flops = 4.0 * 4096 * static_cast<double>(n * n_rows) *
                         (static_cast<double>(n_past) + static_cast<double>(n_rows + 1) / 2);
    std::printf(
        "kv heads %2ld %4s, %2ld sequences of %4ld + %5ld: %8.1f us %6.2f TB/s %6.1f TFLOP/s\n",
        static_cast<long>(kv_heads), std::string(dtype_name(type)).c_str(), static_cast<long>(n),
        static_cast<long>(n_rows), static_cast<long>(n_past), us,
        static_cast<double>(bytes) / us * 1e-6, flops / us * 1e-6);
  }

  BenchDevice& device_;
  Backend& backend_;
  Stream& stream_;
};

}  // namespace
}  // namespace deltacome::bench

int main(int argc, char** argv) {
  try {
    const bool f16 = argc > 1 && std::strcmp(argv[1], "f16") == 0;
    deltacome::bench::BenchDevice device(f16 ? deltacome::DType::kF16 : deltacome::DType::kBf16);
    std::printf("%s, weights %s\n", device.backend->name().c_str(), f16 ? "F16" : "BF16");
    deltacome::bench::bench_projections(device);
    if (argc > 1 && std::strcmp(argv[argc - 1], "projections") == 0) return 0;
    deltacome::bench::Bench bench(device);
    bench.small_ops();
    bench.attention();
    bench.sampling();
    return 0;
  } catch (const deltacome::Error& error) {
    std::fprintf(stderr, "base_bench: %s\n", error.what());
    return 1;
  }
}
