// SPDX-License-Identifier: Apache-2.0
// Recorded steps against the same ops with plans of their own.
#include "backend/cuda/step_recorder.h"

#include <array>

#include "tests/cuda/delta_test_support.h"
#include "tests/support/gpu_test.h"

namespace deltacome::cuda {
namespace {

constexpr int64_t kHeads = 2, kHeadDim = 32, kHidden = kHeads * kHeadDim, kRows = 3;
constexpr int64_t kBlocks = 64;

/// A layer's worth of ops on a backend: norm, a projection with deltas, rotation, cache, attention.
class StepRecorderTest : public test::GpuTest<> {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (gpu_ == nullptr) return;
    stream_ = gpu_->create_stream();
    recorder_ = gpu_->create_step_recorder();
    ASSERT_NE(recorder_, nullptr);
    norm_ = weight({kHidden});
    projection_ = weight({kHidden, kHidden});
    inv_freq_ = weight({kHeadDim / 2});
    const std::vector<MatrixFormat> formats = {
        low_rank(kHidden, kHidden, {tier(9, 2, 3)}), low_rank(kHidden, kHidden, {tier(33, 8, 2)}),
        vector_format(kHidden, kHidden, 8, true), low_rank(kHidden, kHidden, {tier(4, 16, 16)})};
    for (const MatrixFormat& format : formats) {
      variants_.push_back(gpu_->create_variant(2));
      variants_.back()->set(1, format, random_blob(rng_, format), *stream_);
    }
    const MatrixFormat norm = raw_format({kHidden}, DType::kF32);
    variants_[1]->set(0, norm, random_blob(rng_, norm), *stream_);
    x_ = gpu_->allocate(DType::kF32, {kRows, kHidden});
    out_ = gpu_->allocate(DType::kF32, {kRows, kHidden});
    for (Tensor* cache : {&keys_, &values_}) {
      *cache = gpu_->allocate(DType::kF32, {kBlocks, kKvBlock, kHidden});
      upload(*cache, random_floats(rng_, cache->size()));
    }
    for (int32_t i = 0; i < kBlocks; ++i) blocks_.push_back((7 * i + 3) % kBlocks);
  }

  Tensor weight(Shape shape) {
    const int64_t n = element_count(shape);
    return gpu_->import_weight(host_tensor(DType::kF32, std::move(shape), random_floats(rng_, n)));
  }
  void upload(const Tensor& to, const std::vector<float>& values) {
    gpu_->upload(*stream_, std::as_bytes(std::span(values)), to);
  }
  std::vector<float> result() {
    std::vector<float> values(static_cast<size_t>(out_.size()));
    gpu_->download(*stream_, out_, std::as_writable_bytes(std::span(values)));
    return values;
  }

  void ops(const VariantPlan& variants, const AttentionPlan& attention) {
    const Tensor normed = gpu_->allocate(DType::kF32, {kRows, kHidden});
    const Tensor q = gpu_->allocate(DType::kF32, {kRows, kHidden});
    gpu_->rms_norm(*stream_, variants, 0, x_, norm_, 1e-5, normed);
    LinearTarget target;
    target.slot = 1;
    target.weight = projection_;
    target.y = q;
    gpu_->linear(*stream_, variants, normed, {&target, 1});
    gpu_->rope(*stream_, attention, q, inv_freq_);
    gpu_->store_kv(*stream_, attention, q, normed, keys_, values_);
    const AttentionShape shape{
        .n_heads = kHeads, .n_kv_heads = kHeads, .head_dim = kHeadDim, .window = 0};
    gpu_->attention(*stream_, attention, shape, q, keys_, values_, out_);
  }

  /// A step of rows of these variants (-1 = base), each after so many tokens; recorded and not.
  void check(const std::array<int, kRows>& of, const std::array<int64_t, kRows>& past) {
    SCOPED_TRACE(testing::Message() << "step " << n_steps_++);
    std::vector<VariantSegment> segments;
    std::vector<SequenceChunk> chunks;
    for (size_t r = 0; r < of.size(); ++r) {
      segments.push_back({of[r] < 0 ? nullptr : variants_[static_cast<size_t>(of[r])], 1});
      // Sequences of their own blocks, so that a row's token is not another row's.
      chunks.push_back({1, past[r], std::span(blocks_).subspan(20 * r, 20)});
    }
    upload(x_, random_floats(rng_, kRows * kHidden));
    const std::array<int64_t, 1> key{kRows};
    const StepRecorder::Plans plans = recorder_->begin(*stream_, key, segments, chunks);
    recorder_->run(*stream_, [&] { ops(plans.variants, plans.attention); });
    const std::vector<float> got = result();
    const auto variants = gpu_->plan_variants(segments);
    const auto attention = gpu_->plan_attention(chunks);
    ops(*variants, *attention);
    const std::vector<float> want = result();
    // Parts of a delta are added in any order: a few roundings of numbers of about this size.
    float largest = 0;
    for (const float v : want) largest = std::max(largest, std::abs(v));
    ASSERT_GT(largest, 0.0f);
    for (size_t i = 0; i < want.size(); ++i)
      ASSERT_NEAR(got[i], want[i], 1e-4f * largest) << "element " << i;
  }
  int64_t n_recorded() const {
    return static_cast<const CudaStepRecorder&>(*recorder_).n_recorded();
  }

  Rng rng_{7};
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<StepRecorder> recorder_;
  std::vector<std::shared_ptr<DeviceVariant>> variants_;
  std::vector<int32_t> blocks_;
  Tensor norm_, projection_, inv_freq_, x_, out_, keys_, values_;
  int n_steps_ = 0;
};

TEST_F(StepRecorderTest, OneGraphServesPositionsAndVariants) {
  check({0, 0, 0}, {3, 20, 7});
  EXPECT_EQ(n_recorded(), 1);
  check({0, 0, 0}, {4, 21, 8});
  check({1, 0, 0}, {4, 40, 9});    // a norm of its own: recorded again
  check({-1, 1, -1}, {4, 40, 9});  // one row of each: other kernels
  const int64_t before = n_recorded();
  check({0, 1, 1}, {5, 41, 100});
  check({1, 1, 0}, {5, 41, 16});
  check({-1, 1, -1}, {15, 16, 0});
  check({-1, -1, -1}, {15, 16, 0});
  check({0, -1, 1}, {200, 16, 255});
  EXPECT_EQ(n_recorded(), before);
}

TEST_F(StepRecorderTest, KindsOfDeltasThatAreNewAreRecorded) {
  check({-1, -1, -1}, {3, 20, 7});
  check({0, -1, -1}, {3, 20, 7});
  check({0, 2, -1}, {3, 20, 7});
  check({3, 2, 0}, {3, 20, 7});
  check({2, 2, 2}, {3, 20, 7});  // rows that share a variant: other kernels
  const int64_t before = n_recorded();
  EXPECT_GE(before, 3);
  check({2, 0, 3}, {4, 21, 8});
  check({-1, 3, -1}, {4, 21, 8});
  check({2, 2, 2}, {4, 21, 8});
  EXPECT_EQ(n_recorded(), before);
}

TEST_F(StepRecorderTest, LongerSequencesHaveMorePieces) {
  check({0, 1, -1}, {3, 20, 7});
  check({0, 1, -1}, {255, 20, 7});
  EXPECT_EQ(n_recorded(), 1);
  check({0, 1, -1}, {256, 20, 300});
  EXPECT_EQ(n_recorded(), 2);
  check({0, 1, -1}, {258, 319, 7});
  check({0, 1, -1}, {10, 21, 7});  // the first graph again
  EXPECT_EQ(n_recorded(), 2);
}

/// A recorded step does not keep variants; a new one at the place of an old one is another.
TEST_F(StepRecorderTest, VariantsGoAndCome) {
  check({0, 1, 2}, {3, 20, 7});
  const std::weak_ptr<DeviceVariant> gone = variants_[2];
  variants_[2].reset();
  EXPECT_TRUE(gone.expired());
  const MatrixFormat format = vector_format(kHidden, kHidden, 8, false);
  variants_[2] = gpu_->create_variant(2);
  variants_[2]->set(1, format, random_blob(rng_, format), *stream_);
  stream_->synchronize();
  check({0, 1, 2}, {4, 21, 8});
}

/// What other ops allocate between steps is not what a graph writes to.
TEST_F(StepRecorderTest, WorkspaceOfAGraphIsItsOwn) {
  check({0, 1, 0}, {3, 20, 7});
  std::vector<Tensor> others;
  const std::vector<float> marks(static_cast<size_t>(kRows * kHidden), 5.0f);
  for (int i = 0; i < 12; ++i) {
    others.push_back(gpu_->allocate(DType::kF32, {kRows, kHidden}));
    upload(others.back(), marks);
  }
  check({0, 1, 0}, {4, 21, 8});
  for (const Tensor& other : others) {
    std::vector<float> values(marks.size());
    gpu_->download(*stream_, other, std::as_writable_bytes(std::span(values)));
    EXPECT_EQ(values, marks);
  }
}

}  // namespace
}  // namespace deltacome::cuda
