// SPDX-License-Identifier: Apache-2.0
#include "compress/taught_text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace deltacome {
namespace {

TopTargets of_two(std::initializer_list<double> first_p) {
  TopTargets t;
  t.k = 2;
  for (const double p : first_p) {
    t.ids.insert(t.ids.end(), {0, 1});
    t.log_p.push_back(static_cast<float>(std::log(p)));
    t.log_p.push_back(static_cast<float>(std::log(1 - p)));
  }
  return t;
}

double entropy(double p) {
  return -(p * std::log(p) + (1 - p) * std::log(1 - p));
}

TEST(CertaintyWeights, AreTheInverseOfTheEntropyWithAMeanOfOne) {
  const std::vector<float> weights = certainty_weights(of_two({0.5, 0.9, 0.999}));
  ASSERT_EQ(weights.size(), 3U);
  EXPECT_NEAR(std::accumulate(weights.begin(), weights.end(), 0.0), 3, 1e-5);
  EXPECT_NEAR(weights[1] / weights[0], (entropy(0.5) + 0.1) / (entropy(0.9) + 0.1), 1e-4);
  EXPECT_NEAR(weights[2] / weights[0], (entropy(0.5) + 0.1) / (entropy(0.999) + 0.1), 1e-4);
}

TEST(CertaintyWeights, CountTheMassOutsideOfTheTargets) {
  TopTargets certain = of_two({0.5});
  TopTargets open = certain;
  for (float& log_p : open.log_p) log_p = static_cast<float>(std::log(0.25));  // half is elsewhere
  TopTargets both = certain;
  both.ids.insert(both.ids.end(), open.ids.begin(), open.ids.end());
  both.log_p.insert(both.log_p.end(), open.log_p.begin(), open.log_p.end());
  const std::vector<float> weights = certainty_weights(both);
  const double open_entropy = -(2 * 0.25 * std::log(0.25) + 0.5 * std::log(0.5));
  EXPECT_NEAR(weights[1] / weights[0], (entropy(0.5) + 0.1) / (open_entropy + 0.1), 1e-4);
}

TEST(CertaintyWeights, StayFiniteForATeacherThatIsSure) {
  TopTargets sure = of_two({0.5});
  sure.ids.insert(sure.ids.end(), {0, 1});
  sure.log_p.insert(sure.log_p.end(), {0, -INFINITY});
  const std::vector<float> weights = certainty_weights(sure);
  EXPECT_NEAR(weights[1] / weights[0], (entropy(0.5) + 0.1) / 0.1, 1e-4);
}

TEST(FirstTokens, TakesWholeSequencesWithTheirTargetsAndWeights) {
  TaughtText text;
  text.sequences = {{1, 2}, {3}, {4, 5, 6}};
  text.targets.k = 1;
  text.targets.ids = {10, 11, 12, 13, 14, 15};
  text.targets.log_p = {0, -1, -2, -3, -4, -5};
  text.weights = {1, 2, 3, 4, 5, 6};
  const TaughtText some = first_tokens(text, 3);
  EXPECT_EQ(some.sequences.size(), 2U);
  EXPECT_EQ(some.targets.ids, (std::vector<int32_t>{10, 11, 12}));
  EXPECT_EQ(some.targets.log_p, (std::vector<float>{0, -1, -2}));
  EXPECT_EQ(some.weights, (std::vector<float>{1, 2, 3}));
  text.weights.clear();
  EXPECT_TRUE(first_tokens(text, 3).weights.empty());
}

TEST(DrawLabels, FollowsTheTargetsAndTheSeed) {
  TopTargets t = of_two({0.75});
  for (int i = 0; i < 12; ++i) {  // 4096 positions
    t.ids.insert(t.ids.end(), t.ids.begin(), t.ids.end());
    t.log_p.insert(t.log_p.end(), t.log_p.begin(), t.log_p.end());
  }
  const std::vector<int32_t> labels = draw_labels(t, 1);
  const auto ones = std::accumulate(labels.begin(), labels.end(), 0);
  EXPECT_NEAR(ones, 1024, 5 * std::sqrt(4096 * 0.75 * 0.25));
  EXPECT_EQ(labels, draw_labels(t, 1));
  EXPECT_NE(labels, draw_labels(t, 2));
}

}  // namespace
}  // namespace deltacome
