// SPDX-License-Identifier: Apache-2.0
#include "compress/plan.h"

#include <gtest/gtest.h>

#include "deltacome/error.h"

namespace deltacome {
namespace {

double bits_of(const MatrixFormat& format) {
  return 8.0 * static_cast<double>(layout_of(format).total_bytes) /
         static_cast<double>(element_count(format.shape));
}

TEST(Plan, ComeAt4096HasThePublishedMixAndFillsTheBudget) {
  // The published ranks 2 / 32 / 968 are 1 bit of codes; with this format's scales and padding:
  const double all_in = bits_of({.codec = Codec::kLowRank,
                                 .shape = {4096, 4096},
                                 .base_rows = 4096,
                                 .dense = {},
                                 .tiers = {{2, {8, 1, 128}, {8, 1, 128}},
                                           {32, {3, 1, 128}, {3, 1, 128}},
                                           {968, {2, 1, 128}, {2, 128, 1}}}});
  const MatrixFormat format = plan_projection(Method::kCome, {4096, 4096}, all_in, 128);
  ASSERT_EQ(format.tiers.size(), 3u);
  EXPECT_EQ(format.tiers[0].rank, 2);
  EXPECT_EQ(format.tiers[0].v.bits, 8);
  EXPECT_EQ(format.tiers[1].rank, 32);
  EXPECT_EQ(format.tiers[1].u.bits, 3);
  EXPECT_EQ(format.tiers[2].rank, 968);
  EXPECT_EQ(format.tiers[2].v.bits, 2);
}

TEST(Plan, EveryShapeAndBudgetStaysWithinItAndWastesLessThanOneComponent) {
  for (const Shape& shape :
       {Shape{384, 384}, Shape{128, 384}, Shape{1024, 384}, Shape{384, 1024}, Shape{11008, 4096}}) {
    for (const double bits : {0.25, 0.5, 1.0, 1.195, 2.5, 8.0}) {
      for (const Method method : {Method::kCome, Method::kLowRank}) {
        const MatrixFormat format = plan_projection(method, shape, bits, 128);
        validate(format, "w");
        EXPECT_LE(bits_of(format), bits);
        MatrixFormat larger = format;
        ++larger.tiers.back().rank;
        if (format.rank() < std::min(shape[0], shape[1]) &&
            (larger.tiers.back().rank - 1) % 128 != 0 && larger.tiers.back().rank != 128) {
          EXPECT_GT(bits_of(larger), bits)
              << to_string(shape) << " at " << bits << " could hold one more component";
        }
      }
    }
  }
}

TEST(Plan, ALargeBudgetRaisesWidthsOnceEveryComponentIsKept) {
  double last_bits = 0;
  for (const double bits : {2.0, 4.0, 6.0, 8.0, 16.0, 16.0 * 2.1}) {
    const MatrixFormat format = plan_projection(Method::kCome, {384, 384}, bits, 128);
    validate(format, "w");
    EXPECT_LE(bits_of(format), bits);
    EXPECT_GT(bits_of(format), last_bits);
    if (bits >= 6) {
      EXPECT_EQ(format.rank(), 384);
      EXPECT_GT(bits_of(format), 0.97 * std::min(bits, 32.04)) << "at " << bits;
    }
    last_bits = bits_of(format);
  }
}

TEST(Plan, ABudgetBelowOneComponentSaysWhatIsNeeded) {
  try {
    plan_projection(Method::kCome, {384, 384}, 0.001, 128);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what())
                  .find("holds no component of a [384, 384] projection: one needs 0.0"),
              std::string::npos)
        << error.what();
  }
}

TEST(Plan, BitDeltaIsOneBitAndOneScaleEmbeddingsFourBitsAndWholeAddedRows) {
  EXPECT_EQ(layout_of(plan_projection(Method::kBitDelta, {384, 1024}, 1, 128)).total_bytes,
            384 * 1024 / 8 + 16);
  const MatrixFormat embedding = plan_embedding({2112, 256}, 2048, DType::kBf16, 128);
  EXPECT_EQ(embedding.added_rows(), 64);
  EXPECT_EQ(layout_of(embedding).total_bytes, 2048 * 256 / 2 + 2048 * 2 * 2 + 64 * 256 * 2);
  EXPECT_EQ(plan_embedding({2000, 256}, 2048, DType::kBf16, 128).base_rows, 2000)
      << "fewer rows than the base";
}

}  // namespace
}  // namespace deltacome
