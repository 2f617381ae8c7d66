// SPDX-License-Identifier: Apache-2.0
#include "quant/vector_codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "core/check.h"
#include "quant/codes.h"

namespace deltacome {
namespace {

TEST(CodeBooks, LowerTheErrorOfAGaussianAsTheyWereMeasuredTo) {
  std::mt19937 random(7);
  std::normal_distribution<float> gaussian;
  for (const int dim : kBookDimensions) {
    const std::span<const int8_t> book = code_book(dim);
    ASSERT_EQ(book.size(), static_cast<size_t>(kBookEntries * dim));
    double error = 0;
    constexpr int kSamples = 2000;
    std::vector<float> x(static_cast<size_t>(dim));
    for (int n = 0; n < kSamples; ++n) {
      for (float& v : x) v = gaussian(random);
      double least = INFINITY;
      for (int e = 0; e < kBookEntries; ++e) {
        double distance = 0;
        for (int i = 0; i < dim; ++i) {
          const double d = x[static_cast<size_t>(i)] -
                           static_cast<double>(
                               book[static_cast<size_t>(e) * x.size() + static_cast<size_t>(i)]) *
                               kBookStep;
          distance += d * d;
        }
        least = std::min(least, distance);
      }
      error += least / dim;
    }
    // The mean of 2000 samples is within 5 % of the figure (its standard error is below 1 %).
    EXPECT_NEAR(error / kSamples, code_book_error(dim), 0.05 * code_book_error(dim)) << dim;
  }
  EXPECT_FALSE(has_code_book(5));
  EXPECT_THROW(code_book(5), Error);
}

TEST(Rotation, IsOrthogonalAndItsOwnInverse) {
  for (const int64_t n : {1, 2, 3, 6, 12, 128, 193, 384}) {
    const int64_t block = rotation_block(n);
    EXPECT_EQ(n % block, 0);
    const std::vector<float> signs = rotation_signs(42, n);
    std::mt19937 random(static_cast<uint32_t>(n));
    std::normal_distribution<float> gaussian;
    std::vector<float> x(static_cast<size_t>(n));
    for (float& v : x) v = gaussian(random);
    std::vector<float> y = x;
    rotate(y, signs, block);
    double before = 0, after = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      before += x[i] * x[i];
      after += y[i] * y[i];
    }
    EXPECT_NEAR(before, after, 1e-5 * before) << n;
    std::vector<double> wide(x.begin(), x.end());
    rotate(wide, signs, block);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(wide[i], y[i], 1e-5) << n;
    unrotate(y, signs, block);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], 1e-5) << n;
  }
  EXPECT_EQ(rotation_block(384), 128);
  EXPECT_EQ(rotation_block(11008), 256);
  EXPECT_EQ(rotation_block(4096), 1024);
}

TEST(Rotation, SignsAreThoseOfTheFormatsDescription) {
  // splitmix64 from state 3, first outputs; a change would make every archive unreadable.
  const std::vector<float> signs = rotation_signs(0, 3);
  EXPECT_EQ(signs, (std::vector<float>{-1, -1, -1}));
  EXPECT_NE(rotation_signs(1, 64), rotation_signs(2, 64));
}

TEST(Gains, RoundTripEveryCodeAndClampTheRest) {
  for (int code = 0; code < 256; ++code)
    EXPECT_EQ(gain_code(gain_of(static_cast<uint8_t>(code))), code);
  EXPECT_EQ(gain_of(128), 1.0F);
  EXPECT_EQ(gain_code(0), 0);
  EXPECT_EQ(gain_code(1e9), 255);
}

MatrixFormat vector_format(int64_t rows, int64_t cols, int dim, bool gain) {
  MatrixFormat format{
      .codec = Codec::kVector, .shape = {rows, cols}, .base_rows = rows, .dense = {}, .tiers = {}};
  format.vector = {.dim = dim, .block = rotation_block(cols), .seed = 5};
  format.col_gain = gain;
  return format;
}

TEST(VectorCodec, DecodesToScaledEntriesRotatedBack) {
  const MatrixFormat format = vector_format(2, 6, 4, true);  // the last entry of a row is cut
  const BlobLayout layout = layout_of(format);
  EXPECT_EQ(layout.vector_codes.bytes, 2 * 2);
  std::vector<std::byte> blob(static_cast<size_t>(layout.total_bytes));
  const std::array<uint16_t, 2> scales = {float_to_f16(2), float_to_f16(0.5F)};
  std::memcpy(blob.data() + layout.row_scale.offset, scales.data(), 4);
  const std::array<uint8_t, 4> codes = {3, 255, 0, 17};
  std::memcpy(blob.data() + layout.vector_codes.offset, codes.data(), 4);
  for (int i = 0; i < 6; ++i)
    blob[static_cast<size_t>(layout.col_gain.offset + i)] = static_cast<std::byte>(128 + 8 * i);
  const std::vector<float> rotated = decode_rotated(format, blob);
  const std::span<const int8_t> book = code_book(4);
  EXPECT_EQ(rotated[1], 2 * static_cast<float>(book[3 * 4 + 1]) / 32);
  EXPECT_EQ(rotated[6 + 5], 0.5F * static_cast<float>(book[17 * 4 + 1]) / 32);

  // y = D x computed either way: D from the oracle, or the rotated rows on the rotated input.
  const std::vector<float> delta = decode_delta(format, blob).v;
  const std::vector<float> signs = rotation_signs(5, 6);
  std::vector<float> x = {0.3F, -1, 2, 0.7F, -0.2F, 1.1F}, scaled;
  for (size_t i = 0; i < 6; ++i)
    scaled.push_back(x[i] * gain_of(static_cast<uint8_t>(128 + 8 * i)));
  rotate(scaled, signs, 2);
  for (size_t o = 0; o < 2; ++o) {
    double direct = 0, through = 0;
    for (size_t i = 0; i < 6; ++i) {
      direct += delta[o * 6 + i] * x[i];
      through += rotated[o * 6 + i] * scaled[i];
    }
    EXPECT_NEAR(direct, through, 1e-4);
  }
}

TEST(VectorCodec, ValidateRefusesWhatItCannotDecode) {
  MatrixFormat format = vector_format(4, 12, 8, false);
  validate(format, "w");
  format.vector.dim = 7;
  EXPECT_THROW(validate(format, "w"), Error);
  format = vector_format(4, 12, 8, false);
  format.vector.block = 8;  // does not divide 12
  EXPECT_THROW(validate(format, "w"), Error);
  format = vector_format(4, 12, 8, false);
  format.row_gain = true;
  EXPECT_THROW(validate(format, "w"), Error);
}

}  // namespace
}  // namespace deltacome
