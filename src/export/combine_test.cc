// SPDX-License-Identifier: Apache-2.0
#include "export/combine.h"

#include <gtest/gtest.h>

#include <cmath>

namespace deltacome {
namespace {

using Deltas = std::vector<std::vector<float>>;

TEST(Combine, LinearIsTheWeightedSum) {
  Deltas deltas{{1, -2, 0}, {4, 4, -8}};
  const CombineRule rule{.combination = Combination::kLinear, .weights = {2, 0.25}};
  EXPECT_EQ(combine(rule, "t", deltas), (std::vector<float>{3, -3, -2}));
}

TEST(Combine, TiesTrimsElectsSignsAndTakesTheMeanOfThoseThatAgree) {
  // Half of the elements are kept: {4, -3} of the first, {-6, 2.5} of the second, {1, 5} of the
  // third.
  Deltas deltas{{4, 0.5f, -3, 0.1f}, {-6, 2.5f, 0.1f, 0.2f}, {0.1f, 0.2f, 1, 5}};
  const CombineRule rule{.combination = Combination::kTies, .weights = {1, 1, 1}, .density = 0.5};
  // 4 - 6 < 0: -6 alone; 2.5 alone; -3 + 1 < 0: -3 alone; 5 alone.
  EXPECT_EQ(combine(rule, "t", deltas), (std::vector<float>{-6, 2.5f, -3, 5}));
}

TEST(Combine, TiesAveragesEqualSigns) {
  Deltas deltas{{2, 0}, {4, 0}, {-1, 0}};
  const CombineRule rule{.combination = Combination::kTies, .weights = {1, 1, 1}, .density = 1};
  EXPECT_EQ(combine(rule, "t", deltas), (std::vector<float>{3, 0}));
}

TEST(Combine, DareKeepsItsShareScaledUpAndTheSum) {
  constexpr size_t kN = 100'000;
  Deltas deltas{std::vector<float>(kN, 1.0f)};
  const CombineRule rule{
      .combination = Combination::kDare, .weights = {1}, .density = 0.25, .seed = 7};
  const std::vector<float> out = combine(rule, "t", deltas);
  size_t kept = 0;
  for (const float x : out) {
    ASSERT_TRUE(x == 0 || x == 4) << x;
    kept += x == 4;
  }
  // Six standard deviations of a binomial count.
  EXPECT_NEAR(static_cast<double>(kept), 0.25 * kN, 6 * std::sqrt(kN * 0.25 * 0.75));
}

TEST(Combine, DareChoosesBySeedTensorAndPlace) {
  const auto chosen = [](uint64_t seed, const char* tensor) {
    Deltas deltas{std::vector<float>(64, 1.0f), std::vector<float>(64, 100.0f)};
    return combine(
        {.combination = Combination::kDare, .weights = {1, 1}, .density = 0.5, .seed = seed},
        tensor, deltas);
  };
  EXPECT_EQ(chosen(1, "a"), chosen(1, "a"));
  EXPECT_NE(chosen(1, "a"), chosen(2, "a"));
  EXPECT_NE(chosen(1, "a"), chosen(1, "b"));
  bool differs = false;  // the two deltas do not lose the same elements
  for (const float x : chosen(1, "a")) differs |= x == 2 || x == 200;
  EXPECT_TRUE(differs);
}

}  // namespace
}  // namespace deltacome
