// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace deltacome {
namespace {

TEST(Rope, DefaultAndLinearFollowTheirFormulas) {
  const std::vector<float> plain = rope_frequencies({.theta = 10000.0}, 8);
  ASSERT_EQ(plain.size(), 4u);
  EXPECT_FLOAT_EQ(plain[0], 1.0f);
  EXPECT_FLOAT_EQ(plain[1], 0.1f);
  EXPECT_FLOAT_EQ(plain[3], 0.001f);
  const std::vector<float> linear =
      rope_frequencies({.type = RopeType::kLinear, .theta = 10000.0, .factor = 4.0}, 8);
  for (size_t i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(linear[i], plain[i] / 4);
}

TEST(Rope, Llama3KeepsShortWavesDividesLongOnesAndBlendsBetween) {
  const RopeConfig rope{.type = RopeType::kLlama3,
                        .theta = 500000.0,
                        .factor = 8.0,
                        .low_freq_factor = 1.0,
                        .high_freq_factor = 4.0,
                        .original_max_positions = 64};
  const std::vector<float> plain = rope_frequencies({.theta = 500000.0}, 16);
  const std::vector<float> got = rope_frequencies(rope, 16);
  EXPECT_FLOAT_EQ(got[0], plain[0]);      // wavelength 6.3: more than 4 turns in 64 positions
  EXPECT_FLOAT_EQ(got[7], plain[7] / 8);  // far less than one turn
  // wavelength 2 pi / 500000^(-1/8) = 32.4: 64 / 32.4 = 1.975 turns, blend 0.325
  const double turns = 64 * plain[1] / (2 * M_PI), blend = (turns - 1) / 3;
  EXPECT_GT(blend, 0);
  EXPECT_LT(blend, 1);
  EXPECT_NEAR(got[1], plain[1] * (blend + (1 - blend) / 8), 1e-7);
}

}  // namespace
}  // namespace deltacome
