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
