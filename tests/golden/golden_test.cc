// SPDX-License-Identifier: Apache-2.0
// Models against the logits and greedy tokens that Hugging Face transformers computes for them in
// float32 (tests/data/goldens; larger models where DELTACOME_SHARED points).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "backend/cpu/cpu_backend.h"
#include "io/safetensors.h"
#include "model/generate.h"
#include "model/model.h"
#include "tests/golden/raw_variant.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;

constexpr float kTolerance = 2e-3f;

/// Where a golden's model and its expected results are.
struct Golden {
  std::string name;
  bool own_model = true;  // beside the results; else under models/
  bool shared = false;    // too large for the repository
};

std::ostream& operator<<(std::ostream& out, const Golden& golden) {
  return out << golden.name;
}

fs::path source_dir() {
  return DELTACOME_SOURCE_DIR;
}

fs::path shared_dir() {
  const char* set = std::getenv("DELTACOME_SHARED");
  return set != nullptr ? fs::path(set) : source_dir() / ".." / "shared";
}

fs::path model_dir(const Golden& golden) {
  if (golden.shared) return shared_dir() / "testbed" / "models" / golden.name;
  return source_dir() / "tests" / "data" / (golden.own_model ? "goldens" : "models") / golden.name;
}

fs::path results_file(const Golden& golden) {
  const fs::path root = golden.shared ? shared_dir() : source_dir() / "tests" / "data";
  return root / "goldens" / golden.name / "golden.safetensors";
}

std::vector<int32_t> read_ids(const HostTensor& tensor) {
  std::vector<int64_t> wide(static_cast<size_t>(tensor.size()));
  std::memcpy(wide.data(), tensor.bytes.data(), tensor.bytes.size());
  return {wide.begin(), wide.end()};
}

class GoldenTest : public ::testing::TestWithParam<Golden> {
 protected:
  void SetUp() override {
    for (const fs::path& path : {model_dir(GetParam()), results_file(GetParam())}) {
      if (GetParam().shared && !fs::exists(path)) GTEST_SKIP() << "no " << path;
    }
    results_ = SafetensorsFile::open(results_file(GetParam()));
    ids_ = read_ids(results_.at("input_ids"));
    use(*cpu::available_kernels().front());
  }

  void use(const cpu::Kernels& kernels) {
    model_.reset();
    backend_ = std::make_unique<CpuBackend>(2, kernels);
    stream_ = backend_->create_stream();
    const fs::path dir = model_dir(GetParam());
    model_ = std::make_unique<Model>(*backend_, Checkpoint::open(dir), read_model_config(dir));
    cache_ = std::make_unique<KvCache>(*backend_, model_->config(), model_->config().n_layers, 64);
  }

  std::vector<float> logits_of(const HiddenRows& rows) {
    const int64_t n = rows.hidden.rows();
    std::vector<float> out(static_cast<size_t>(n * rows.vocab_size));
    backend_->download(*stream_, model_->logits(*stream_, rows, 0, n),
                       std::as_writable_bytes(std::span(out)));
    return out;
  }

  /// Logits of all positions, the prompt fed `chunk` tokens at a time. With company, other
  /// sequences are in every batch, before and behind.
  std::vector<float> run(int64_t chunk, bool company = false) {
    Sequence sequence, before, behind;
    std::vector<float> out;
    const auto n = static_cast<int64_t>(ids_.size());
    for (int64_t first = 0; first < n; first += chunk) {
      const auto part = std::span(ids_).subspan(static_cast<size_t>(first),
                                                static_cast<size_t>(std::min(chunk, n - first)));
      std::vector<BatchItem> items = {{part, &sequence, {}, BatchItem::Rows::kAll}};
      if (company) {
        items.insert(items.begin(), {part.first(1), &before, {}, BatchItem::Rows::kNone});
        items.push_back({std::span(ids_).first(static_cast<size_t>(std::min<int64_t>(n, 11))),
                         &behind,
                         {},
                         BatchItem::Rows::kNone});
      }
      const std::vector<float> rows = logits_of(model_->forward(*stream_, items, *cache_));
      out.insert(out.end(), rows.begin(), rows.end());
      cache_->release(behind);
    }
    cache_->release(sequence);
    cache_->release(before);
    return out;
  }

  SafetensorsFile results_;
  std::vector<int32_t> ids_;
  std::unique_ptr<CpuBackend> backend_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<KvCache> cache_;
};

TEST_P(GoldenTest, LogitsAreThoseOfTransformersOnEveryInstructionSet) {
  const std::vector<float> want = results_.at("logits").to_float();
  for (const cpu::Kernels* kernels : cpu::available_kernels()) {
    use(*kernels);
    const std::vector<float> got = run(static_cast<int64_t>(ids_.size()));
    ASSERT_EQ(got.size(), want.size());
    size_t worst = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      if (!(std::abs(got[i] - want[i]) <= std::abs(got[worst] - want[worst]))) worst = i;
    }
    const auto vocab = static_cast<size_t>(model_->config().vocab_size);
    EXPECT_NEAR(got[worst], want[worst], kTolerance)
        << kernels->name << ": token " << worst / vocab << ", logit " << worst % vocab;
    RecordProperty(std::string("largest_difference_") + std::to_string(vocab) + kernels->name,
                   std::to_string(std::abs(got[worst] - want[worst])));
  }
}

TEST_P(GoldenTest, GreedyTokensAreThoseOfTransformers) {
  GenerationRequest request;
  request.prompt = ids_;
  const std::vector<int32_t> want = read_ids(results_.at("greedy"));
  request.max_tokens = static_cast<int64_t>(want.size());
  const std::vector<GenerationRequest> requests(3, request);
  for (const Generation& result : generate(*model_, *stream_, requests, 2))
    EXPECT_EQ(result.tokens, want);
}

TEST_P(GoldenTest, ChunksAndCompanyDoNotChangeABit) {
  const std::vector<float> whole = run(static_cast<int64_t>(ids_.size()));
  EXPECT_TRUE(run(7) == whole);
  EXPECT_TRUE(run(1) == whole);
  EXPECT_TRUE(run(7, true) == whole);
  EXPECT_TRUE(run(static_cast<int64_t>(ids_.size()), true) == whole);
}

TEST(VariantGolden, AFineTuneOfRawTensorsBesideTheBaseGivesItsOwnTokensAndTheBaseIts) {
  const fs::path data = source_dir() / "tests" / "data";
  const auto backend = create_cpu_backend(2);
  const auto stream = backend->create_stream();
  const fs::path base = data / "models" / "tiny-base", math = data / "models" / "tiny-math";
  const Model model(*backend, Checkpoint::open(base), read_model_config(base));
  const Variant variant{test::raw_variant(*backend, *stream, Checkpoint::open(math),
                                          expected_tensors(model.config())),
                        0};
  std::vector<GenerationRequest> requests;
  std::vector<std::vector<int32_t>> want;
  for (const bool tuned : {true, false, true, true, false}) {
    const auto golden = SafetensorsFile::open(
        data / "goldens" / (tuned ? "tiny-math" : "tiny-base") / "golden.safetensors");
    requests.emplace_back();
    requests.back().prompt = read_ids(golden.at("input_ids"));
    want.push_back(read_ids(golden.at("greedy")));
    requests.back().max_tokens = static_cast<int64_t>(want.back().size());
    if (tuned) requests.back().variant = variant;
  }
  const std::vector<Generation> got = generate(model, *stream, requests, 3);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i].tokens, want[i]) << i;
}

TEST(VariantGolden, SampledTokensDoNotDependOnTheBatch) {
  const fs::path dir = source_dir() / "tests" / "data" / "models" / "tiny-math";
  const auto backend = create_cpu_backend(2);
  const auto stream = backend->create_stream();
  const Model model(*backend, Checkpoint::open(dir), read_model_config(dir));
  std::vector<GenerationRequest> requests(6);
  for (size_t i = 0; i < requests.size(); ++i) {
    for (size_t t = 0; t < 3 + 7 * i; ++t)
      requests[i].prompt.push_back(static_cast<int32_t>((i * 97 + t * 31) % 2048));
    requests[i].max_tokens = static_cast<int64_t>(12 + i);
    requests[i].seed = i;
    requests[i].sampling.temperature = 1;
    requests[i].sampling.top_p = 0.95f;
  }
  const std::vector<Generation> together = generate(model, *stream, requests, 4);
  for (size_t i = 0; i < requests.size(); ++i)
    EXPECT_EQ(generate(model, *stream, {&requests[i], 1}, 1).front().tokens, together[i].tokens);
}

std::string golden_name(const ::testing::TestParamInfo<Golden>& info) {
  std::string name = info.param.name;
  std::ranges::replace(name, '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Architectures, GoldenTest,
                         ::testing::Values(Golden{"llama2"}, Golden{"llama3"}, Golden{"mistral"},
                                           Golden{"phi3"}, Golden{"qwen2"}, Golden{"qwen3"}),
                         golden_name);
INSTANTIATE_TEST_SUITE_P(Tiny, GoldenTest,
                         ::testing::Values(Golden{"tiny-base", false}, Golden{"tiny-math", false}),
                         golden_name);
INSTANTIATE_TEST_SUITE_P(Small, GoldenTest,
                         ::testing::Values(Golden{"small-base", false, true},
                                           Golden{"small-math", false, true},
                                           Golden{"small-code", false, true},
                                           Golden{"small-chat", false, true}),
                         golden_name);

}  // namespace
}  // namespace deltacome
