// SPDX-License-Identifier: Apache-2.0
#include "quant/codes.h"

#include <gtest/gtest.h>

#include <random>

namespace deltacome {
namespace {

CodedArray random_array(const ArrayFormat& format, int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  CodedArray array{
      .format = format, .rows = rows, .cols = cols, .codes = {}, .scales = {}, .values = {}};
  const auto n = static_cast<size_t>(rows * cols);
  if (format.bits == 16) {
    for (size_t i = 0; i < n; ++i)
      array.values.push_back(float_to_f16(static_cast<float>(i % 91) - 45.5f));
    return array;
  }
  for (size_t i = 0; i < n; ++i) {
    array.codes.push_back(static_cast<uint8_t>(random() & ((1u << format.bits) - 1)));
  }
  for (int64_t i = 0; i < scale_count(format, rows, cols); ++i) {
    array.scales.push_back(float_to_f16(0.25f + static_cast<float>(i)));
  }
  return array;
}

TEST(Codes, PackedArraysRoundTripAtEveryWidthAndOddLength) {
  for (const int bits : {1, 2, 3, 4, 8, 16}) {
    for (const int64_t rows : {1, 3, 129}) {
      for (const int64_t cols : {1, 2, 5, 7, 127, 129, 193}) {
        const MatrixFormat format{.codec = Codec::kDense,
                                  .shape = {rows, cols},
                                  .base_rows = rows,
                                  .dense = {.bits = bits, .scale_rows = 1, .scale_cols = 128},
                                  .tiers = {}};
        const BlobLayout layout = layout_of(format);
        std::vector<std::byte> blob(static_cast<size_t>(layout.total_bytes) + 16, std::byte{0xa5});
        const CodedArray array = random_array(format.dense, rows, cols, 7u);
        pack(array, layout.dense, blob);
        for (size_t i = static_cast<size_t>(layout.total_bytes); i < blob.size(); ++i) {
          ASSERT_EQ(blob[i], std::byte{0xa5}) << "pack() wrote past the blob";
        }
        const CodedArray back = unpack(format.dense, rows, cols, layout.dense, blob);
        EXPECT_EQ(back.codes, array.codes) << bits << " bits, " << rows << " x " << cols;
        EXPECT_EQ(back.scales, array.scales);
        EXPECT_EQ(back.values, array.values);
      }
    }
  }
}

TEST(Codes, TwoBitCodesLieLsbFirstAndThreeBitsInTwoPlanes) {
  const CodedArray two{.format = {2, 1, 0},
                       .rows = 1,
                       .cols = 5,
                       .codes = {1, 2, 3, 0, 3},
                       .scales = {0x3c00},
                       .values = {}};
  std::vector<std::byte> blob(32);
  pack(two, {.codes = {0, 2}, .scales = {16, 2}}, blob);
  EXPECT_EQ(blob[0], std::byte{0b00111001});
  EXPECT_EQ(blob[1], std::byte{0b00000011});
  EXPECT_EQ(blob[17], std::byte{0x3c});
  const CodedArray three{.format = {3, 1, 0},
                         .rows = 2,
                         .cols = 2,
                         .codes = {5, 2, 7, 4},
                         .scales = {0x3c00, 0x3c00},
                         .values = {}};
  pack(three, {.codes = {0, 4}, .scales = {16, 4}}, blob);
  EXPECT_EQ(blob[0], std::byte{0b1001});  // low bits of row 0: 01, 10
  EXPECT_EQ(blob[1], std::byte{0b0011});  // low bits of row 1: 11, 00
  EXPECT_EQ(blob[2], std::byte{0b01});    // high bits of row 0
  EXPECT_EQ(blob[3], std::byte{0b11});    // high bits of row 1
}

TEST(Codes, ValuesAreSymmetricAroundZeroAndScaledByTheirBlock) {
  const CodedArray array{
      .format = {2, 2, 2},
      .rows = 3,
      .cols = 3,
      .codes = {0, 1, 2, 3, 0, 1, 2, 3, 0},
      .scales = {float_to_f16(1), float_to_f16(2), float_to_f16(4), float_to_f16(8)},
      .values = {}};
  const std::vector<float> want{-1.5f, -0.5f, 1, 1.5f, -1.5f, -1, 2, 6, -12};
  EXPECT_EQ(decode(array), want);
}

TEST(Codes, LowRankDecodesToColumnsOfUInTierOrder) {
  MatrixFormat format{
      .codec = Codec::kLowRank, .shape = {3, 5}, .base_rows = 3, .dense = {}, .tiers = {}};
  format.tiers = {{.rank = 1, .v = {8, 1, 2}, .u = {4, 2, 1}},
                  {.rank = 2, .v = {2, 1, 128}, .u = {3, 2, 1}}};
  const BlobLayout layout = layout_of(format);
  std::vector<std::byte> blob(static_cast<size_t>(layout.total_bytes));
  std::vector<std::vector<float>> v, ut;
  for (size_t t = 0; t < 2; ++t) {
    const CodedArray vt =
        random_array(format.tiers[t].v, format.tiers[t].rank, 5, 1 + static_cast<uint32_t>(t));
    const CodedArray u =
        random_array(format.tiers[t].u, format.tiers[t].rank, 3, 9 + static_cast<uint32_t>(t));
    pack(vt, layout.tiers[t].v, blob);
    pack(u, layout.tiers[t].u, blob);
    v.push_back(decode(vt));
    ut.push_back(decode(u));
  }
  const DecodedDelta delta = decode_delta(format, blob);
  ASSERT_EQ(delta.s.size(), 3u);
  for (size_t o = 0; o < 3; ++o) {
    EXPECT_EQ(delta.u[o * 3 + 0], ut[0][o]);
    EXPECT_EQ(delta.u[o * 3 + 1], ut[1][o]);
    EXPECT_EQ(delta.u[o * 3 + 2], ut[1][3 + o]);
  }
  EXPECT_TRUE(std::equal(v[0].begin(), v[0].end(), delta.v.begin()));
  EXPECT_TRUE(std::equal(v[1].begin(), v[1].end(), delta.v.begin() + 5));
}

}  // namespace
}  // namespace deltacome
