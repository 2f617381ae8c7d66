// SPDX-License-Identifier: Apache-2.0
// Vision-language models against what Hugging Face transformers computes for them in float32: the
// picture's features, logits and greedy tokens.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "backend/cpu/cpu_backend.h"
#include "io/safetensors.h"
#include "model/generate.h"
#include "model/given_rows.h"
#include "model/model.h"
#include "model/vision_tower.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;

constexpr float kTolerance = 2e-3f;

/// A model and its expected results; both are beside the checkout where `shared`.
struct VisionGolden {
  std::string name;
  bool shared = false;
};

std::ostream& operator<<(std::ostream& out, const VisionGolden& golden) {
  return out << golden.name;
}

fs::path shared_dir() {
  const char* set = std::getenv("DELTACOME_SHARED");
  return set != nullptr ? fs::path(set) : fs::path(DELTACOME_SOURCE_DIR) / ".." / "shared";
}

std::vector<int32_t> read_ids(const HostTensor& tensor) {
  std::vector<int64_t> wide(static_cast<size_t>(tensor.size()));
  std::memcpy(wide.data(), tensor.bytes.data(), tensor.bytes.size());
  return {wide.begin(), wide.end()};
}

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  float worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float off = std::abs(a[i] - b[i]);
    if (!(off <= worst)) worst = off;
  }
  return worst;
}

class VisionGoldenTest : public ::testing::TestWithParam<VisionGolden> {
 protected:
  void SetUp() override {
    const VisionGolden& golden = GetParam();
    const fs::path data = fs::path(DELTACOME_SOURCE_DIR) / "tests" / "data";
    const fs::path results =
        (golden.shared ? shared_dir() : data) / "goldens" / golden.name / "golden.safetensors";
    dir_ = golden.shared ? shared_dir() / "testbed" / "models" / golden.name
                         : data / "goldens" / golden.name;
    for (const fs::path& path : {dir_, results}) {
      if (golden.shared && !fs::exists(path)) GTEST_SKIP() << "no " << path;
    }
    results_ = SafetensorsFile::open(results);
    use(*cpu::available_kernels().front());
  }

  void use(const cpu::Kernels& kernels) {
    tower_.reset();
    model_.reset();
    backend_ = std::make_unique<CpuBackend>(2, kernels);
    stream_ = backend_->create_stream();
    const Checkpoint checkpoint = Checkpoint::open(dir_);
    const ModelConfig config = read_model_config(dir_);
    model_ = std::make_unique<Model>(*backend_, checkpoint, config);
    tower_ = std::make_unique<VisionTower>(*backend_, checkpoint, config);
    features_ = tower_->features(*stream_, results_.at("pixel_values").to_float());
    ids_ = read_ids(results_.at("input_ids"));
    int64_t row = 0;
    for (int32_t& id : ids_) {
      if (id == config.vision->image_token_id) id = given_id(row++);
    }
    ASSERT_EQ(row, config.vision->n_features());
  }

  std::vector<float> download(const Tensor& tensor) {
    std::vector<float> out(static_cast<size_t>(tensor.size()));
    backend_->download(*stream_, tensor, std::as_writable_bytes(std::span(out)));
    return out;
  }

  /// Logits of all positions, the prompt fed `chunk` tokens at a time.
  std::vector<float> run(int64_t chunk) {
    KvCache cache(*backend_, model_->config(), model_->config().n_layers, 64);
    Sequence sequence;
    std::vector<float> out;
    const auto n = static_cast<int64_t>(ids_.size());
    for (int64_t first = 0; first < n; first += chunk) {
      const auto part = std::span(ids_).subspan(static_cast<size_t>(first),
                                                static_cast<size_t>(std::min(chunk, n - first)));
      const BatchItem item{part, &sequence, {}, BatchItem::Rows::kAll, features_};
      const HiddenRows rows = model_->forward(*stream_, {&item, 1}, cache);
      const std::vector<float> logits =
          download(model_->logits(*stream_, rows, 0, rows.hidden.rows()));
      out.insert(out.end(), logits.begin(), logits.end());
    }
    return out;
  }

  fs::path dir_;
  SafetensorsFile results_;
  std::vector<int32_t> ids_;
  std::unique_ptr<CpuBackend> backend_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<VisionTower> tower_;
  Tensor features_;
};

TEST_P(VisionGoldenTest, FeaturesAndLogitsAreThoseOfTransformersOnEveryInstructionSet) {
  const std::vector<float> features = results_.at("image_features").to_float();
  const std::vector<float> logits = results_.at("logits").to_float();
  for (const cpu::Kernels* kernels : cpu::available_kernels()) {
    use(*kernels);
    const std::vector<float> got = download(features_);
    ASSERT_EQ(got.size(), features.size());
    EXPECT_LE(largest_difference(got, features), kTolerance) << kernels->name;
    const std::vector<float> all = run(static_cast<int64_t>(ids_.size()));
    ASSERT_EQ(all.size(), logits.size());
    EXPECT_LE(largest_difference(all, logits), kTolerance) << kernels->name;
  }
}

TEST_P(VisionGoldenTest, GreedyTokensAreThoseOfTransformers) {
  const std::vector<int32_t> want = read_ids(results_.at("greedy"));
  GenerationRequest request{
      .prompt = ids_, .variant = {}, .stop_ids = {}, .sampling = {}, .given = features_};
  request.max_tokens = static_cast<int64_t>(want.size());
  const std::vector<GenerationRequest> requests(3, request);
  for (const Generation& result : generate(*model_, *stream_, requests, 2))
    EXPECT_EQ(result.tokens, want);
}

TEST_P(VisionGoldenTest, ChunksAcrossAPictureDoNotChangeABit) {
  const std::vector<float> whole = run(static_cast<int64_t>(ids_.size()));
  EXPECT_TRUE(run(7) == whole);
  EXPECT_TRUE(run(1) == whole);
}

TEST_P(VisionGoldenTest, AnIdBeyondTheGivenRowsIsRefused) {
  ids_.push_back(given_id(features_.rows()));
  EXPECT_THROW(run(static_cast<int64_t>(ids_.size())), Error);
}

std::string golden_name(const ::testing::TestParamInfo<VisionGolden>& info) {
  std::string name = info.param.name;
  std::ranges::replace(name, '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Llava, VisionGoldenTest,
                         ::testing::Values(VisionGolden{"llava"},
                                           VisionGolden{"tiny-vision", true}),
                         golden_name);

}  // namespace
}  // namespace deltacome
