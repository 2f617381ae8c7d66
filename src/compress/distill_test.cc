// SPDX-License-Identifier: Apache-2.0
#include "compress/distill.h"

#include <gtest/gtest.h>

#include <map>

#include "compress/distillation_test_support.h"

namespace deltacome {
namespace {

class DistillTest : public test::DistillationTest {
 protected:
  void SetUp() override {
    training_ = taught(0, 10, 32);
    held_back_ = taught(12, 5, 32);
    for (const int slot : projections()) coded_[slot] = encode(slot, vector(slot, 16));
  }

  struct Student {
    explicit Student(const DistillTest& test)
        : weights(test.model_, *test.stream_, test.pair_, nullptr) {
      for (const auto& [slot, coded] : test.coded_) weights.use_delta(slot, coded);
      weights.create_parameters();
    }
    DeltaWeights weights;
  };
  struct Outcome {
    std::vector<float> values;
    DistillState state;
    std::vector<DistillState> saved;
    double kl = 0;  // measured anew at the end
  };
  Outcome run(const DistillOptions& options, DistillState state = {}) {
    Student student(*this);
    BackwardPass pass(model_, *stream_, student.weights);
    Outcome out{.values = {}, .state = std::move(state), .saved = {}};
    distill(student.weights, pass, *backend_, *stream_, training_, held_back_, options, out.state,
            [&](const DistillState& now) { out.saved.push_back(now); });
    out.values = download(student.weights.values());
    out.kl = mean_kl(pass, held_back_, certainty_weights(held_back_));
    return out;
  }

  TaughtText training_, held_back_;
  std::map<int, CodedTensor> coded_;
};

TEST_F(DistillTest, LowersTheHeldBackLossOfACoarseCode) {
  const Outcome out = run({.steps = 24});
  ASSERT_GE(out.state.curve.size(), 2U);
  EXPECT_EQ(out.state.step, 24);
  EXPECT_EQ(out.state.curve.back().step, 24);
  EXPECT_LT(out.kl, 0.95 * out.state.curve.front().held_back_kl);
  EXPECT_EQ(out.kl, out.state.best_kl);
  for (const DistillPoint& point : out.state.curve) EXPECT_LE(out.kl, point.held_back_kl);
}

TEST_F(DistillTest, NeverEndsAboveWhereItBegan) {
  const Outcome out = run({.steps = 4, .rate = 3, .norm_rate = 3});  // far too fast
  EXPECT_LE(out.kl, out.state.curve.front().held_back_kl);
  EXPECT_GT(out.state.curve.back().held_back_kl, out.state.curve.front().held_back_kl);
  EXPECT_EQ(out.values, std::vector<float>(out.values.size(), 1));
}

TEST_F(DistillTest, ContinuesBitByBitFromEverySavedState) {
  const DistillOptions options{.steps = 13, .seed = 4, .save_every_s = 0};
  const Outcome whole = run(options);
  ASSERT_GT(whole.saved.size(), 3U);
  for (const size_t at : {size_t{0}, whole.saved.size() / 2, whole.saved.size() - 1}) {
    const Outcome rest = run(options, whole.saved[at]);
    EXPECT_EQ(rest.values, whole.values) << "from step " << whole.saved[at].step;
    EXPECT_EQ(rest.state.best_kl, whole.state.best_kl);
    ASSERT_EQ(rest.state.curve.size(), whole.state.curve.size());
    for (size_t i = 0; i < rest.state.curve.size(); ++i) {
      EXPECT_EQ(rest.state.curve[i].step, whole.state.curve[i].step);
      EXPECT_EQ(rest.state.curve[i].training_kl, whole.state.curve[i].training_kl);
      EXPECT_EQ(rest.state.curve[i].held_back_kl, whole.state.curve[i].held_back_kl);
    }
  }
}

TEST_F(DistillTest, EqualSeedsGiveEqualParametersAndOthersOthers) {
  const Outcome a = run({.steps = 5, .seed = 1}), b = run({.steps = 5, .seed = 1}),
                c = run({.steps = 5, .seed = 2});
  EXPECT_EQ(a.state.values, b.state.values);
  EXPECT_EQ(a.values, b.values);
  EXPECT_NE(a.state.values, c.state.values);
}

TEST_F(DistillTest, StopsAtTheTimeLimitWithAStateToGoOnFrom) {
  const Outcome stopped = run({.steps = 6, .limit_s = 0});
  EXPECT_EQ(stopped.state.step, 0);
  ASSERT_EQ(stopped.saved.size(), 1U);
  const Outcome rest = run({.steps = 6}, stopped.saved[0]);
  EXPECT_EQ(rest.values, run({.steps = 6}).values);
}

}  // namespace
}  // namespace deltacome
