// SPDX-License-Identifier: Apache-2.0
// Whole models on the GPU: against transformers (the goldens), and beside the CPU.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "model/generate.h"
#include "tests/golden/raw_variant.h"
#include "tests/golden/side_by_side.h"
#include "tests/support/gpu_test.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(DELTACOME_SOURCE_DIR) / "tests" / "data";

std::vector<int32_t> read_ids(const HostTensor& tensor) {
  std::vector<int64_t> wide(static_cast<size_t>(tensor.size()));
  std::memcpy(wide.data(), tensor.bytes.data(), tensor.bytes.size());
  return {wide.begin(), wide.end()};
}

using CudaGolden = test::GpuTest<::testing::TestWithParam<const char*>>;

std::string name_of(const ::testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::ranges::replace(name, '-', '_');
  return name;
}

/// Models in float32: no input is rounded, so the CPU's tolerance holds.
using CudaArchitecture = CudaGolden;

TEST_P(CudaArchitecture, LogitsAndGreedyTokensAreThoseOfTransformers) {
  const fs::path dir = kData / "goldens" / GetParam();
  const SafetensorsFile golden = SafetensorsFile::open(dir / "golden.safetensors");
  const std::vector<int32_t> ids = read_ids(golden.at("input_ids"));
  const std::vector<float> want = golden.at("logits").to_float();
  const auto n = static_cast<int64_t>(ids.size());
  const Checkpoint checkpoint = Checkpoint::open(dir);
  const ModelConfig config = read_model_config(dir);
  for (const int64_t chunk : {n, int64_t{7}, int64_t{1}}) {
    test::RunningModel running(*gpu_, checkpoint, config, DType::kF32);
    const std::vector<float> got = running.logits(ids, n, chunk);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-3f) << i;
  }
  const auto stream = gpu_->create_stream();
  const Model model(*gpu_, checkpoint, config);
  GenerationRequest request;
  request.prompt = ids;
  const std::vector<int32_t> greedy = read_ids(golden.at("greedy"));
  request.max_tokens = static_cast<int64_t>(greedy.size());
  const std::vector<GenerationRequest> requests(3, request);
  for (const Generation& result : generate(model, *stream, requests, 2))
    EXPECT_EQ(result.tokens, greedy);
}

INSTANTIATE_TEST_SUITE_P(Models, CudaArchitecture,
                         ::testing::Values("llama2", "llama3", "mistral", "phi3", "qwen2", "qwen3"),
                         name_of);

/// Inputs of projections are rounded to the type of the weights; what that may cost is set by the
/// contract of the backend.
using CudaBesideCpu = CudaGolden;

TEST_P(CudaBesideCpu, DistributionsAreThoseOfTheCpu) {
  const auto cpu = create_cpu_backend();
  const fs::path dir = kData / "models" / GetParam();
  const Checkpoint stored = Checkpoint::open(dir);  // bf16
  const ModelConfig config = read_model_config(dir);
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    const Checkpoint checkpoint = dtype == DType::kBf16 ? stored : test::converted(stored, dtype);
    for (const DType kv_dtype : {DType::kF32, DType::kBf16, DType::kU8}) {
      const test::Difference d =
          test::compare(*cpu, *gpu_, checkpoint, config, kv_dtype, 3, 100, 40);
      const double limit = dtype == DType::kBf16 ? 2e-3 : 1e-4;
      // A code of the cache that differs by one is a difference of its own.
      EXPECT_LT(d.mean_kl, limit) << dtype_name(dtype) << " with " << dtype_name(kv_dtype);
      EXPECT_LT(d.largest_kl, 20 * limit) << dtype_name(dtype) << " with " << dtype_name(kv_dtype);
      std::printf("%s %s, cache %s: KL %.2e, largest %.2e, logit %.2e, other top-1 %ld of %ld\n",
                  GetParam(), std::string(dtype_name(dtype)).c_str(),
                  std::string(dtype_name(kv_dtype)).c_str(), d.mean_kl, d.largest_kl,
                  d.largest_logit, static_cast<long>(d.other_top1), static_cast<long>(d.tokens));
    }
  }
}

using CudaVariants = CudaGolden;

/// Prompts and single tokens of the base and of a variant, mixed in every step.
TEST_P(CudaVariants, AFineTuneBesideItsBaseIsThatOfTheCpu) {
  const auto cpu = create_cpu_backend();
  const fs::path dir = kData / "models" / "tiny-base";
  const Checkpoint base = Checkpoint::open(dir),
                   tuned = Checkpoint::open(kData / "models" / GetParam());
  const ModelConfig config = read_model_config(dir);
  std::vector<std::vector<float>> results;
  for (Backend* backend : {cpu.get(), gpu_.get()}) {
    const auto stream = backend->create_stream();
    const Model model(*backend, base, config);
    const Variant variant{test::raw_variant(*backend, *stream, tuned, expected_tensors(config)), 0};
    KvCache cache(*backend, config, config.n_layers, 64);
    std::vector<Sequence> sequences(6);
    std::vector<float> all;
    for (int step = 0; step < 5; ++step) {
      std::vector<std::vector<int32_t>> tokens;
      for (size_t i = 0; i < sequences.size(); ++i) {
        const size_t n = step == 0 ? 5 + 13 * i : 1;
        tokens.emplace_back();
        for (size_t t = 0; t < n; ++t)
          tokens.back().push_back(
              static_cast<int32_t>((i * 97 + t * 31 + static_cast<size_t>(step) * 7) % 2048));
      }
      std::vector<BatchItem> items;
      for (size_t i = 0; i < sequences.size(); ++i) {
        items.push_back(
            {tokens[i], &sequences[i], i % 3 == 1 ? Variant{} : variant, BatchItem::Rows::kLast});
      }
      const HiddenRows rows = model.forward(*stream, items, cache);
      const auto n = static_cast<int64_t>(items.size());
      std::vector<float> part(static_cast<size_t>(n * rows.vocab_size));
      backend->download(*stream, model.logits(*stream, rows, 0, n),
                        std::as_writable_bytes(std::span(part)));
      all.insert(all.end(), part.begin(), part.end());
    }
    results.push_back(std::move(all));
  }
  test::Difference d;
  d.add(results[0], results[1], config.vocab_size);
  EXPECT_EQ(d.tokens, 30);
  EXPECT_LT(d.mean_kl, 2e-3);
  EXPECT_LT(d.largest_kl, 4e-2);
}

INSTANTIATE_TEST_SUITE_P(Models, CudaVariants, ::testing::Values("tiny-math"), name_of);

INSTANTIATE_TEST_SUITE_P(Models, CudaBesideCpu, ::testing::Values("tiny-base", "tiny-math"),
                         name_of);

}  // namespace
}  // namespace deltacome
