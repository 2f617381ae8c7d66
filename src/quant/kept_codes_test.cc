// SPDX-License-Identifier: Apache-2.0
#include "quant/kept_codes.h"

#include <gtest/gtest.h>

#include "core/dtype.h"

namespace deltacome {
namespace {

/// Two rows of 300 columns; scales are fp16 numbers.
QuantizedMatrix matrix(int64_t group) {
  QuantizedMatrix m;
  m.n_out = 2;
  m.n_in = 300;
  m.group = group;
  for (int64_t i = 0; i < 600; ++i) m.codes.push_back(static_cast<uint8_t>(i * 7 % 16));
  for (int64_t i = 0; i < 2 * m.n_groups(); ++i) {
    m.scales.push_back(0.25F * static_cast<float>(i + 1));
    m.zeros.push_back(static_cast<float>(i % 5));
  }
  return m;
}

TEST(KeptCodes, GiveTheMatrixItsValues) {
  for (const int64_t group : {int64_t{128}, int64_t{256}, int64_t{300}}) {
    const QuantizedMatrix m = matrix(group);
    ASSERT_TRUE(keeps_codes(m));
    const KeptCodes kept = kept_codes(m, 7.5F);
    EXPECT_EQ(kept.by_row, group == 300);
    EXPECT_EQ(kept.n_sums, group == 300 ? 1 : 3);
    EXPECT_EQ(kept.relative_error, 0);
    std::vector<float> row(300);
    for (int64_t o = 0; o < 2; ++o) {
      m.decode_row(o, row);
      for (int64_t i = 0; i < 300; ++i) {
        const auto at = static_cast<size_t>(o * kept.n_sums + (kept.by_row ? 0 : i / 128));
        const float scale = kept.by_row ? kept.row_scales[at] : f16_to_float(kept.group_scales[at]);
        const float code = m.codes[static_cast<size_t>(o * 300 + i)];
        EXPECT_EQ(scale * (code - 7.5F) + kept.zeros[at], row[static_cast<size_t>(i)]) << i;
      }
    }
  }
}

TEST(KeptCodes, AZeroThatAllShareIsACenter) {
  QuantizedMatrix m = matrix(128);
  float zero = -1;
  EXPECT_FALSE(has_one_zero(m, zero));
  m.zeros.assign(m.zeros.size(), 8.0F);
  ASSERT_TRUE(has_one_zero(m, zero));
  EXPECT_EQ(zero, 8);
  EXPECT_TRUE(kept_codes(m, zero).zeros.empty());
  EXPECT_EQ(kept_codes(m, zero).bytes_of(m), 2 * (150 + 2 * 3));
  EXPECT_EQ(kept_codes(m, 7.5F).bytes_of(m), 2 * (150 + 6 * 3));
  m.zeros = {};
  ASSERT_TRUE(has_one_zero(m, zero));
  EXPECT_EQ(zero, 0);
}

TEST(KeptCodes, GroupsBelowTheLayoutsAndTablesAreOthers) {
  EXPECT_FALSE(keeps_codes(matrix(64)));
  QuantizedMatrix table = matrix(128);
  table.levels.assign(16, 0.5F);
  EXPECT_FALSE(keeps_codes(table));
}

TEST(KeptCodes, RoundingOfScalesIsMeasured) {
  QuantizedMatrix m = matrix(128);
  for (float& scale : m.scales) scale *= 1 + 0x1p-12F;  // a quarter of a step
  const double error = kept_codes(m, 7.5F).relative_error;
  EXPECT_GT(error, 0);
  EXPECT_LT(error, 0x1p-11);
}

}  // namespace
}  // namespace deltacome
