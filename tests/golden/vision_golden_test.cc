// SPDX-License-Identifier: Apache-2.0
// Vision-language models against what Hugging Face transformers computes for them in float32: the
// picture's features, logits and greedy tokens.
#include "tests/golden/vision_golden.h"

#include "backend/cpu/cpu_backend.h"

namespace deltacome {
namespace {

using test::VisionGolden;

constexpr float kTolerance = 2e-3f;

class VisionGoldenTest : public ::testing::TestWithParam<VisionGolden> {
 protected:
  void SetUp() override {
    const VisionGolden& golden = GetParam();
    if (!golden.missing().empty()) GTEST_SKIP() << "no " << golden.missing();
    results_ = SafetensorsFile::open(golden.results());
    use(*cpu::available_kernels().front());
  }

  void use(const cpu::Kernels& kernels) {
    run_.reset();
    backend_ = std::make_unique<CpuBackend>(2, kernels);
    run_ = std::make_unique<test::VisionRun>(*backend_, Checkpoint::open(GetParam().model_dir()),
                                             read_model_config(GetParam().model_dir()), results_);
  }

  SafetensorsFile results_;
  std::unique_ptr<CpuBackend> backend_;
  std::unique_ptr<test::VisionRun> run_;
};

TEST_P(VisionGoldenTest, FeaturesAndLogitsAreThoseOfTransformersOnEveryInstructionSet) {
  const std::vector<float> features = results_.at("image_features").to_float();
  const std::vector<float> logits = results_.at("logits").to_float();
  for (const cpu::Kernels* kernels : cpu::available_kernels()) {
    use(*kernels);
    const std::vector<float> got = run_->features();
    ASSERT_EQ(got.size(), features.size());
    EXPECT_LE(test::largest_difference(got, features), kTolerance) << kernels->name;
    const std::vector<float> all = run_->logits();
    ASSERT_EQ(all.size(), logits.size());
    EXPECT_LE(test::largest_difference(all, logits), kTolerance) << kernels->name;
  }
}

TEST_P(VisionGoldenTest, GreedyTokensAreThoseOfTransformers) {
  const std::vector<int32_t> want = test::read_ids(results_.at("greedy"));
  for (const std::vector<int32_t>& tokens : run_->greedy(static_cast<int64_t>(want.size())))
    EXPECT_EQ(tokens, want);
}

TEST_P(VisionGoldenTest, ChunksAcrossAPictureDoNotChangeABit) {
  const std::vector<float> whole = run_->logits();
  EXPECT_TRUE(run_->logits(7) == whole);
  EXPECT_TRUE(run_->logits(1) == whole);
}

TEST_P(VisionGoldenTest, AnIdBeyondTheGivenRowsIsRefused) {
  run_->ids.push_back(given_id(run_->n_features()));
  EXPECT_THROW(run_->logits(), Error);
}

INSTANTIATE_TEST_SUITE_P(Llava, VisionGoldenTest,
                         ::testing::Values(VisionGolden{"llava"},
                                           VisionGolden{"tiny-vision", true}),
                         test::golden_name);

}  // namespace
}  // namespace deltacome
