// SPDX-License-Identifier: Apache-2.0
// Vision-language models on the GPU: against transformers (the goldens), and beside the CPU.
#include "tests/golden/side_by_side.h"
#include "tests/golden/vision_golden.h"
#include "tests/support/gpu_test.h"

namespace deltacome {
namespace {

using test::VisionGolden;

class CudaVision : public test::GpuTest<::testing::TestWithParam<VisionGolden>> {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    results_ = SafetensorsFile::open(GetParam().results());
    config_ = read_model_config(GetParam().model_dir());
  }

  SafetensorsFile results_;
  ModelConfig config_;
};

/// In float32: no input is rounded, so the CPU's tolerance holds.
TEST_P(CudaVision, FeaturesLogitsAndGreedyTokensAreThoseOfTransformers) {
  const Checkpoint weights = test::converted(Checkpoint::open(GetParam().model_dir()), DType::kF32);
  test::VisionRun run(*gpu_, weights, config_, results_);
  const std::vector<float> features = results_.at("image_features").to_float(),
                           logits = results_.at("logits").to_float(), got = run.features();
  ASSERT_EQ(got.size(), features.size());
  EXPECT_LE(test::largest_difference(got, features), 2e-3f);
  for (const auto chunk : {static_cast<int64_t>(run.ids.size()), int64_t{7}, int64_t{1}}) {
    const std::vector<float> all = run.logits(chunk);
    ASSERT_EQ(all.size(), logits.size());
    EXPECT_LE(test::largest_difference(all, logits), 2e-3f) << "chunks of " << chunk;
  }
  const std::vector<int32_t> want = test::read_ids(results_.at("greedy"));
  for (const std::vector<int32_t>& tokens : run.greedy(static_cast<int64_t>(want.size())))
    EXPECT_EQ(tokens, want);
}

/// As the checkpoint has them, inputs of projections are rounded to their type.
TEST_P(CudaVision, DistributionsAreThoseOfTheCpu) {
  const auto cpu = create_cpu_backend(2);
  const Checkpoint stored = Checkpoint::open(GetParam().model_dir());
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const Checkpoint checkpoint = test::converted(stored, dtype);
    test::VisionRun on_cpu(*cpu, checkpoint, config_, results_);
    test::VisionRun on_gpu(*gpu_, checkpoint, config_, results_);
    test::Difference d;
    d.add(on_cpu.logits(), on_gpu.logits(), config_.vocab_size);
    const double limit = dtype == DType::kBf16 ? 2e-3 : 1e-4;
    EXPECT_LT(d.mean_kl, limit) << dtype_name(dtype);
    EXPECT_LT(d.largest_kl, 20 * limit) << dtype_name(dtype);
  }
}

TEST_P(CudaVision, AnIdBeyondTheGivenRowsIsRefused) {
  test::VisionRun run(*gpu_, Checkpoint::open(GetParam().model_dir()), config_, results_);
  run.ids.push_back(given_id(run.n_features()));
  EXPECT_THROW(run.logits(), Error);
}

/// The goldens that are there: a GPU machine may have the checkout alone, and a skipped test there
/// means that there was no GPU.
std::vector<VisionGolden> goldens() {
  std::vector<VisionGolden> all = {{"llava"}, {"tiny-vision", true}};
  std::erase_if(all, [](const VisionGolden& golden) { return !golden.missing().empty(); });
  return all;
}

INSTANTIATE_TEST_SUITE_P(Llava, CudaVision, ::testing::ValuesIn(goldens()), test::golden_name);

}  // namespace
}  // namespace deltacome
