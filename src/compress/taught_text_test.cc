// SPDX-License-Identifier: Apache-2.0
#include "compress/taught_text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace deltacome {
namespace {

/// Two tokens at every position, the first of probability p.
TopTargets of_two(int n_positions, double p) {
  TopTargets t;
  t.k = 2;
  for (int i = 0; i < n_positions; ++i) {
    t.ids.push_back(0);
    t.ids.push_back(1);
    t.log_p.push_back(static_cast<float>(std::log(p)));
    t.log_p.push_back(static_cast<float>(std::log(1 - p)));
  }
  return t;
}

double entropy(double p) {
  return -(p * std::log(p) + (1 - p) * std::log(1 - p));
}

void append(TopTargets& to, const TopTargets& from) {
  to.k = from.k;
  to.ids.insert(to.ids.end(), from.ids.begin(), from.ids.end());
  to.log_p.insert(to.log_p.end(), from.log_p.begin(), from.log_p.end());
}

TEST(CertaintyWeights, SequencesOfOneEntropyWeighByIt) {
  TaughtText text;
  text.sequences = {std::vector<int32_t>(5), std::vector<int32_t>(3)};
  append(text.targets, of_two(5, 0.5));
  append(text.targets, of_two(3, 0.99));
  const std::vector<float> weights = certainty_weights(text);
  ASSERT_EQ(weights.size(), 8U);
  EXPECT_NEAR(std::accumulate(weights.begin(), weights.end(), 0.0), 8, 1e-5);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_NEAR(weights[i] / weights[0], i < 5 ? 1 : (entropy(0.5) + 0.03) / (entropy(0.99) + 0.03),
                1e-4)
        << i;
  }
}

TEST(CertaintyWeights, PassagesWeighAsAWhole) {
  TaughtText text;  // a prompt of 60 open tokens, an answer of 60 with an open one in its midst
  text.sequences = {std::vector<int32_t>(120)};
  append(text.targets, of_two(60, 0.5));
  append(text.targets, of_two(30, 0.9999));
  append(text.targets, of_two(1, 0.5));
  append(text.targets, of_two(29, 0.9999));
  const std::vector<float> weights = certainty_weights(text);
  EXPECT_GT(weights[90], 2.5F * weights[20]);  // it counts as its neighbours do
  EXPECT_LT(weights[90], weights[110]);
  for (size_t i = 1; i < 90; ++i) EXPECT_GE(weights[i], 0.999F * weights[i - 1]) << i;
}

TEST(CertaintyWeights, CountsTheMassOutsideOfTheTargets) {
  TaughtText text;
  text.sequences = {{1}, {2}};
  append(text.targets, of_two(2, 0.5));
  for (size_t i : {2, 3}) text.targets.log_p[i] = std::log(0.25F);  // half is elsewhere
  const std::vector<float> weights = certainty_weights(text);
  const double open = -(2 * 0.25 * std::log(0.25) + 0.5 * std::log(0.5));
  EXPECT_NEAR(weights[1] / weights[0], (entropy(0.5) + 0.03) / (open + 0.03), 1e-4);
}

TEST(CertaintyWeights, StaysFiniteForATeacherThatIsSure) {
  TaughtText text;
  text.sequences = {{1}, {2}};
  text.targets = {.k = 2, .ids = {0, 1, 0, 1}, .log_p = {0, -INFINITY, 1e-6F, -20}};
  const std::vector<float> weights = certainty_weights(text);
  for (const float w : weights) EXPECT_NEAR(w, 1, 1e-3);
}

TEST(FirstTokens, TakesWholeSequencesWithTheirTargets) {
  TaughtText text;
  text.sequences = {{1, 2}, {3}, {4, 5, 6}};
  text.targets.k = 1;
  text.targets.ids = {10, 11, 12, 13, 14, 15};
  text.targets.log_p = {0, -1, -2, -3, -4, -5};
  const TaughtText some = first_tokens(text, 3);
  EXPECT_EQ(some.sequences.size(), 2U);
  EXPECT_EQ(some.targets.ids, (std::vector<int32_t>{10, 11, 12}));
  EXPECT_EQ(some.targets.log_p, (std::vector<float>{0, -1, -2}));
}

TEST(Batches, AreOfNeighboursAndBounded) {
  TaughtText text;
  text.sequences = {std::vector<int32_t>(3), std::vector<int32_t>(4), std::vector<int32_t>(9),
                    std::vector<int32_t>(1), std::vector<int32_t>(1)};
  EXPECT_EQ(batches_of(text, 7),
            (std::vector<std::vector<size_t>>{{0, 1}, {2}, {3, 4}}));  // 9 is alone
  EXPECT_EQ(offsets_of(text), (std::vector<int64_t>{0, 3, 7, 16, 17, 18}));
}

TEST(DrawLabels, FollowsTheTargetsAndTheSeed) {
  const TopTargets t = of_two(4096, 0.75);
  const std::vector<int32_t> labels = draw_labels(t, 1);
  const auto ones = std::accumulate(labels.begin(), labels.end(), 0);
  EXPECT_NEAR(ones, 1024, 5 * std::sqrt(4096 * 0.75 * 0.25));
  EXPECT_EQ(labels, draw_labels(t, 1));
  EXPECT_NE(labels, draw_labels(t, 2));
}

}  // namespace
}  // namespace deltacome
