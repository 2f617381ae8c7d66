// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/sample.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

namespace deltacome::cpu {
namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

SampleParams params_of(const std::vector<float>& logits, SampleParams params) {
  params.vocab_size = static_cast<int64_t>(logits.size());
  return params;
}

/// How often each id comes out for evenly spaced draws.
std::map<int, double> frequencies(const std::vector<float>& logits, SampleParams params) {
  constexpr int kDraws = 10000;
  std::map<int, double> out;
  for (int i = 0; i < kDraws; ++i) {
    params.uniform = (i + 0.5) / kDraws;
    out[sample_row(logits, params_of(logits, params))] += 1.0 / kDraws;
  }
  return out;
}

TEST(Sample, GreedyTakesTheFirstOfEqualLogits) {
  const std::vector<float> logits = {0, 3, 3, 1};
  EXPECT_EQ(sample_row(logits, params_of(logits, {})), 1);
}

TEST(Sample, ColumnsBeyondTheVocabularyAreNotSeen) {
  const std::vector<float> logits = {0, 1, 9};
  EXPECT_EQ(sample_row(logits, {.vocab_size = 2}), 1);
}

TEST(Sample, NanIsNeverChosen) {
  const std::vector<float> logits = {kNan, 1, kNan, 2};
  EXPECT_EQ(sample_row(logits, params_of(logits, {})), 3);
  for (const double u : {0.0, 0.5, 0.999})
    EXPECT_TRUE(sample_row(logits, params_of(logits, {.temperature = 1, .uniform = u})) % 2 == 1);
}

TEST(Sample, InfinitiesAreGreedy) {
  const std::vector<float> up = {0, kInf, 1}, down = {-kInf, -kInf};
  EXPECT_EQ(sample_row(up, params_of(up, {.temperature = 1, .uniform = 0.99})), 1);
  EXPECT_EQ(sample_row(down, params_of(down, {.temperature = 1, .uniform = 0.99})), 0);
}

TEST(Sample, FollowsTheSoftmaxAtATemperature) {
  const std::vector<float> logits = {1, 0, 2};
  const auto f = frequencies(logits, {.temperature = 0.5f});
  const double total = std::exp(2) + 1 + std::exp(4);
  EXPECT_NEAR(f.at(0), std::exp(2) / total, 2e-4);
  EXPECT_NEAR(f.at(1), 1 / total, 2e-4);
  EXPECT_NEAR(f.at(2), std::exp(4) / total, 2e-4);
}

TEST(Sample, DrawsRunFromTheMostProbableAndThenById) {
  const std::vector<float> logits = {0, 5, 0, 5};
  EXPECT_EQ(sample_row(logits, params_of(logits, {.temperature = 1, .uniform = 0})), 1);
  EXPECT_EQ(sample_row(logits, params_of(logits, {.temperature = 1, .uniform = 0.7})), 3);
  EXPECT_EQ(sample_row(logits, params_of(logits, {.temperature = 1, .uniform = 0.99999})), 2);
}

TEST(Sample, TopKBreaksTiesById) {
  const std::vector<float> logits = {1, 2, 1, 2, 1};
  const auto f = frequencies(logits, {.temperature = 1, .top_k = 3});
  EXPECT_EQ(f.size(), 3u);
  EXPECT_TRUE(f.contains(0) && f.contains(1) && f.contains(3));
}

TEST(Sample, TopPKeepsTheSmallestSetThatReachesTheMass) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f),
                                     std::log(0.05f)};
  EXPECT_EQ(frequencies(logits, {.temperature = 1, .top_p = 0.79f}).size(), 2u);
  EXPECT_EQ(frequencies(logits, {.temperature = 1, .top_p = 0.82f}).size(), 3u);
  EXPECT_EQ(frequencies(logits, {.temperature = 1, .top_p = 0.0f}).size(), 1u);
  // Of the two largest (0.625 and 0.375 after renormalizing) the first alone reaches 0.6.
  EXPECT_EQ(frequencies(logits, {.temperature = 1, .top_k = 2, .top_p = 0.6f}).size(), 1u);
}

TEST(Sample, MinPIsRelativeToTheLargest) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f),
                                     std::log(0.05f)};
  EXPECT_EQ(frequencies(logits, {.temperature = 1, .min_p = 0.55f}).size(), 2u);
  EXPECT_EQ(frequencies(logits, {.temperature = 1, .min_p = 0.25f}).size(), 3u);
}

}  // namespace
}  // namespace deltacome::cpu
