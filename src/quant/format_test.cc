// SPDX-License-Identifier: Apache-2.0
#include "quant/format.h"

#include <gtest/gtest.h>

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
  EXPECT_NE(message(format), "");
  EXPECT_EQ(message(published_attention()), "");
}

}  // namespace
}  // namespace deltacome
