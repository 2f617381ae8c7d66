// SPDX-License-Identifier: Apache-2.0
#include "quant/format.h"

#include <gtest/gtest.h>

#include <limits>

#include "deltacome/error.h"

namespace deltacome {
namespace {

MatrixFormat published_attention() {
  MatrixFormat format{
      .codec = Codec::kLowRank, .shape = {4096, 4096}, .base_rows = 4096, .dense = {}, .tiers = {}};
  for (const auto& [rank, bits] : {std::pair{2, 8}, std::pair{32, 3}, std::pair{968, 2}}) {
    format.tiers.push_back({.rank = rank, .v = {bits, 1, 128}, .u = {bits, 128, 1}});
  }
  return format;
}

TEST(Format, PublishedMixOfA4096SquareMatrixHasItsPublishedBytes) {
  const MatrixFormat format = published_attention();
  const BlobLayout layout = layout_of(format);
  const int64_t codes = (2 * 8 + 32 * 3 + 968 * 2) * (4096 + 4096) / 8;  // exactly 1 bit a weight
  EXPECT_EQ(codes, 4096 * 4096 / 8);
  // V: a scale per component and 128 inputs. U: a scale per output and section of up to 128
  // components.
  const int64_t scales = 2 * (1002 * 32 + 4096 * (1 + 1 + 8));
  EXPECT_EQ(layout.total_bytes, 2016 + codes + scales);  // s: 2004 bytes, padded to 16
  validate(format, "q_proj");
}

TEST(Format, PartsAreAlignedDisjointAndInOrder) {
  MatrixFormat format = published_attention();
  format.shape = {37, 19};
  format.base_rows = 35;
  format.tiers = {{.rank = 3, .v = {3, 1, 4}, .u = {3, 128, 1}},
                  {.rank = 1, .v = {16, 1, 0}, .u = {16, 1, 0}}};
  const BlobLayout layout = layout_of(format);
  int64_t end = 0;
  const auto check = [&](const Part& part) {
    EXPECT_EQ(part.offset % kPartAlignment, 0);
    EXPECT_GE(part.offset, end);
    end = part.offset + part.bytes;
  };
  check(layout.s);
  for (const TierLayout& tier : layout.tiers) {
    check(tier.v.codes);
    check(tier.v.scales);
    check(tier.u.codes);
    check(tier.u.scales);
  }
  check(layout.added);
  EXPECT_EQ(layout.added.bytes, 2 * 19 * 2);
  EXPECT_GE(layout.total_bytes, end);
  EXPECT_EQ(layout.tiers[0].v.codes.bytes, 3 * (5 + 3));  // two planes a row: 38 and 19 bits
}

TEST(Format, PartsOfVectorCodesAndGainsFollowTheirCodes) {
  MatrixFormat vector{
      .codec = Codec::kVector, .shape = {37, 19}, .base_rows = 35, .dense = {}, .tiers = {}};
  vector.vector = {.dim = 6, .block = 1, .seed = 3};
  vector.col_gain = true;
  BlobLayout layout = layout_of(vector);
  const auto is = [](const Part& part, int64_t offset, int64_t bytes) {
    EXPECT_EQ(part.offset, offset);
    EXPECT_EQ(part.bytes, bytes);
  };
  is(layout.row_scale, 0, 70);
  is(layout.vector_codes, 80, 35 * 4);  // 19 weights: 3 entries and 1 that is cut
  is(layout.row_gain, 0, 0);
  is(layout.col_gain, 224, 19);
  is(layout.added, 256, 2 * 19 * 2);
  EXPECT_EQ(layout.total_bytes, 336);
  vector.col_gain = false;
  is(layout_of(vector).added, 224, 2 * 19 * 2);

  MatrixFormat low_rank = vector;
  low_rank.codec = Codec::kLowRank;
  low_rank.tiers = {{.rank = 2, .v = {2, 1, 0}, .u = {2, 0, 1}}};
  low_rank.row_gain = low_rank.col_gain = true;
  layout = layout_of(low_rank);
  is(layout.tiers[0].u.scales, 80, 70);
  is(layout.row_gain, 160, 35);
  is(layout.col_gain, 208, 19);
  is(layout.added, 240, 76);
}

TEST(Format, GainsBelongToCodesThatHaveThem) {
  MatrixFormat format = published_attention();
  format.row_gain = format.col_gain = true;
  EXPECT_NO_THROW(validate(format, "w"));
  for (const Codec codec : {Codec::kRaw, Codec::kDense, Codec::kVector}) {
    for (const bool row : {false, true}) {
      format.codec = codec;
      format.row_gain = row;
      format.col_gain = !row;
      if (codec == Codec::kVector && !row) {
        EXPECT_NO_THROW(validate(format, "w"));
        continue;
      }
      try {
        validate(format, "w");
        ADD_FAILURE() << codec_name(codec);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
      }
    }
  }
}

TEST(Format, ValidationNamesTheTensorAndTheFault) {
  const auto message = [](const MatrixFormat& format) -> std::string {
    try {
      validate(format, "layer.q");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
      return error.what();
    }
    return "";
  };
  MatrixFormat format = published_attention();
  format.tiers[1].u.bits = 5;
  EXPECT_EQ(message(format), "tensor \"layer.q\": U has 5 bits, expected 1, 2, 3, 4, 8 or 16");
  format = published_attention();
  format.tiers[2].rank = 5000;
  EXPECT_NE(message(format).find("more than 4096"), std::string::npos);
  format = published_attention();
  format.base_rows = 5000;
  EXPECT_NE(message(format), "");
  format.shape = {int64_t{1} << 40, 2};
  EXPECT_EQ(message(format),
            "tensor \"layer.q\": shape [1099511627776, 2], expected extents of 1 to 2147483648");
  EXPECT_EQ(message(published_attention()), "");
}

TEST(Format, ScaleBlocksThatOverflowAreRefused) {
  const auto refuses = [](const MatrixFormat& format, const std::string& block) {
    try {
      validate(format, "w");
      ADD_FAILURE() << block;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
      EXPECT_NE(std::string(error.what()).find(block + ", expected 0 to 2147483648 each"),
                std::string::npos)
          << error.what();
    }
  };
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  MatrixFormat dense = published_attention();
  dense.codec = Codec::kDense;
  dense.dense = {4, kLargest, 1};
  refuses(dense, "its code has a scale block [9223372036854775807, 1]");
  dense.dense = {4, 0, kLargest};
  refuses(dense, "its code has a scale block [0, 9223372036854775807]");
  dense.dense = {4, -1, 0};
  refuses(dense, "its code has a scale block [-1, 0]");
  dense.dense = {4, int64_t{1} << 31, (int64_t{1} << 31) + 1};
  refuses(dense, "its code has a scale block [2147483648, 2147483649]");
  MatrixFormat low_rank = published_attention();
  low_rank.tiers[1].u = {3, 1, kLargest - 127};
  refuses(low_rank, "U has a scale block [1, 9223372036854775680]");
  low_rank.tiers[1].u = {3, 1, 128};
  low_rank.tiers[2].v = {2, kLargest, kLargest};
  refuses(low_rank, "V has a scale block [9223372036854775807, 9223372036854775807]");
  dense.dense = {4, int64_t{1} << 31, int64_t{1} << 31};  // one scale, as with [0, 0]
  EXPECT_NO_THROW(validate(dense, "w"));
  EXPECT_EQ(layout_of(dense).dense.scales.bytes, 2);
}

TEST(Format, ShapesWhoseBytesOverflowAreRefused) {
  MatrixFormat format;  // 2^64 bytes, which is 0
  format.raw_dtype = DType::kF32;
  format.shape = {int64_t{1} << 31, int64_t{1} << 31};
  try {
    validate(format, "w");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("of 4611686018427387904 elements"), std::string::npos);
  }
  format.shape = {int64_t{1} << 31, int64_t{1} << 25};
  EXPECT_NO_THROW(validate(format, "w"));
  EXPECT_EQ(layout_of(format).total_bytes, int64_t{1} << 58);
}

TEST(Format, TiersAreBounded) {
  MatrixFormat format = published_attention();
  format.tiers.assign(kMaxTiers, {.rank = 1, .v = {2, 0, 0}, .u = {2, 0, 0}});
  EXPECT_NO_THROW(validate(format, "w"));
  format.tiers.push_back(format.tiers[0]);
  try {
    validate(format, "w");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "tensor \"w\": 9 tiers, expected at most 8");
  }
}

}  // namespace
}  // namespace deltacome
