// SPDX-License-Identifier: Apache-2.0
#include "compress/allocate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "quant/vector_codes.h"

namespace deltacome {
namespace {

/// Components fall as (1 + i)^-decay; they add up to the energy.
MatrixCurve curve_of(Shape shape, double decay, double energy = 1, double sensitivity = 1) {
  MatrixCurve curve{
      .name = "w", .shape = shape, .sensitivity = sensitivity, .energy = energy, .components = {}};
  double sum = 0;
  for (int64_t i = 0; i < std::min(shape[0], shape[1]); ++i) {
    curve.components.push_back(std::pow(static_cast<double>(1 + i), -decay));
    sum += curve.components.back();
  }
  for (double& e : curve.components) e *= energy / sum;
  return curve;
}

std::vector<MatrixCurve> random_curves(uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform;
  const std::vector<Shape> shapes{{256, 128}, {40, 96}, {33, 65}, {128, 384}, {15, 24}};
  std::vector<MatrixCurve> out;
  for (const Shape& shape : shapes)
    out.push_back(curve_of(shape, 3 * uniform(random), std::exp(6 * uniform(random) - 3),
                           std::exp(4 * uniform(random) - 2)));
  return out;
}

int64_t bytes_of(const std::vector<Allocated>& parts) {
  int64_t bytes = 0;
  for (const Allocated& part : parts) {
    if (part.format) bytes += layout_of(*part.format).total_bytes;
  }
  return bytes;
}

double loss_of(const std::vector<Allocated>& parts) {
  return std::accumulate(parts.begin(), parts.end(), 0.0,
                         [](double sum, const Allocated& part) { return sum + part.loss; });
}

int64_t weights_of(const std::vector<MatrixCurve>& curves) {
  int64_t n = 0;
  for (const MatrixCurve& curve : curves) n += element_count(curve.shape);
  return n;
}

TEST(Allocate, StaysWithinEveryBudgetWithValidFormatsAndFallingLoss) {
  for (const uint32_t seed : {1U, 2U, 3U}) {
    const std::vector<MatrixCurve> curves = random_curves(seed);
    const double n = static_cast<double>(weights_of(curves));
    double before = INFINITY;
    for (double bits = 0.002; bits < 20; bits *= 1.3) {
      const auto budget = static_cast<int64_t>(bits * n / 8);
      const std::vector<Allocated> parts =
          allocate(curves, budget, {.column_gains = seed == 2, .rotation_seed = 9});
      ASSERT_EQ(parts.size(), curves.size());
      EXPECT_LE(bytes_of(parts), budget);
      for (size_t m = 0; m < parts.size(); ++m) {
        if (!parts[m].format) continue;
        const MatrixFormat& format = *parts[m].format;
        EXPECT_NO_THROW(validate(format, "w"));
        EXPECT_EQ(format.shape, curves[m].shape);
        EXPECT_EQ(format.base_rows, format.n_out());
        EXPECT_EQ(format.col_gain, seed == 2 && format.codec != Codec::kDense);
        EXPECT_EQ(format.row_gain, format.codec == Codec::kLowRank);
        if (format.codec == Codec::kVector) {
          EXPECT_EQ(format.vector.seed, 9U);
          EXPECT_EQ(format.vector.block, rotation_block(format.n_in()));
        }
        for (const TierFormat& tier : format.tiers) {
          if (curves[m].components.size() >= 128) {
            EXPECT_EQ(tier.rank % 8, 0);
          }
        }
      }
      EXPECT_LE(loss_of(parts), before * (1 + 1e-12)) << "seed " << seed << ", bits " << bits;
      before = loss_of(parts);
    }
  }
}

TEST(Allocate, BudgetOfNothingStoresNothing) {
  const std::vector<MatrixCurve> curves = random_curves(4);
  double whole = 0;
  for (const MatrixCurve& curve : curves) whole += curve.energy * curve.sensitivity;
  const std::vector<Allocated> parts = allocate(curves, 0, {});
  for (const Allocated& part : parts) EXPECT_FALSE(part.format);
  EXPECT_NEAR(loss_of(parts), unbiased_error(1) * whole, 1e-9 * whole);
  EXPECT_TRUE(allocate({}, 100, {}).empty());
}

TEST(Allocate, SixteenBitsStoreTheFinestThereIs) {
  const std::vector<MatrixCurve> curves = random_curves(5);
  for (const Allocated& part : allocate(curves, 2 * weights_of(curves), {})) {
    ASSERT_TRUE(part.format);
    EXPECT_EQ(part.format->codec, Codec::kDense);
    EXPECT_EQ(part.format->dense.bits, 8);
  }
}

TEST(Allocate, TakesTiersForASteepSpectrumAndVectorCodesForAFlatOne) {
  const std::vector<MatrixCurve> curves{curve_of({256, 256}, 3), curve_of({256, 256}, 0)};
  const std::vector<Allocated> parts = allocate(curves, weights_of(curves) / 8, {});  // 1 bit
  ASSERT_TRUE(parts[0].format && parts[1].format);
  EXPECT_EQ(parts[0].format->codec, Codec::kLowRank);
  EXPECT_EQ(parts[1].format->codec, Codec::kVector);
  EXPECT_GT(parts[0].format->tiers.size(), 1U);
}

TEST(Allocate, AWeightOfZeroExcludesAFamily) {
  for (const double bits : {0.3, 1.0, 3.0, 16.0}) {
    std::vector<MatrixCurve> curves = random_curves(6);
    const auto budget = static_cast<int64_t>(bits * static_cast<double>(weights_of(curves)) / 8);
    for (MatrixCurve& curve : curves) curve.low_rank_weight = 0;
    for (const Allocated& part : allocate(curves, budget, {}))
      EXPECT_TRUE(!part.format || part.format->codec != Codec::kLowRank);
    for (MatrixCurve& curve : curves) std::swap(curve.low_rank_weight, curve.whole_weight);
    for (const Allocated& part : allocate(curves, budget, {}))
      EXPECT_TRUE(!part.format || part.format->codec == Codec::kLowRank);
  }
}

/// Whole codes of a matrix and nothing: few enough to try all combinations.
struct Choice {
  int64_t bytes;
  double loss;
};
std::vector<Choice> whole_codes(const MatrixCurve& curve) {
  const double whole = curve.energy * curve.sensitivity;
  std::vector<Choice> out{{0, whole * unbiased_error(1)}};
  MatrixFormat format{.codec = Codec::kVector,
                      .shape = curve.shape,
                      .base_rows = curve.shape[0],
                      .dense = {},
                      .tiers = {}};
  for (const int dim : kBookDimensions) {
    format.vector = {dim, rotation_block(curve.shape[1]), 0};
    out.push_back({layout_of(format).total_bytes, whole * unbiased_error(code_book_error(dim))});
  }
  format.codec = Codec::kDense;
  // Max, Quantizing for Minimum Distortion, table II: of a Gaussian.
  for (const auto& [bits, error] : {std::pair{3, 0.037}, {4, 0.0115}, {8, 5e-5}}) {
    format.dense = {bits, 1, 0};
    out.push_back({layout_of(format).total_bytes, whole * unbiased_error(error)});
  }
  return out;
}

TEST(Allocate, MatchesBruteForceUpToOneStep) {
  std::vector<MatrixCurve> curves{curve_of({16, 24}, 1, 3), curve_of({32, 48}, 1, 1),
                                  curve_of({8, 64}, 1, 0.2)};
  std::vector<std::vector<Choice>> choices;
  for (MatrixCurve& curve : curves) {
    curve.low_rank_weight = 0;
    choices.push_back(whole_codes(curve));
  }
  int exact = 0, tried = 0;
  for (int64_t budget = 0; budget < 3200; budget += 40) {
    double best = INFINITY;
    for (const Choice& a : choices[0]) {
      for (const Choice& b : choices[1]) {
        for (const Choice& c : choices[2]) {
          if (a.bytes + b.bytes + c.bytes <= budget)
            best = std::min(best, a.loss + b.loss + c.loss);
        }
      }
    }
    const double got = loss_of(allocate(curves, budget, {}));
    EXPECT_GE(got, best * (1 - 1e-12));
    // Everett: a multiplier's choice is the best one for its own bytes. Filling up what is left is
    // greedy: measured, 67 of these 80 budgets are exact, and the worst is 1.54 times the best.
    EXPECT_LE(got, best * 1.6) << budget;
    exact += got <= best * (1 + 1e-12);
    ++tried;
  }
  EXPECT_GE(exact, tried * 8 / 10);
}

TEST(Allocate, ManyEqualMatricesAreNotAllLeftOutWhereOnlySomeFit) {
  const std::vector<MatrixCurve> curves(10, curve_of({64, 64}, 0));
  const std::vector<Allocated> parts = allocate(curves, 10 * 64 * 64 / 8 / 4, {});
  EXPECT_GT(bytes_of(parts), 10 * 64 * 64 / 8 / 4 * 8 / 10);
}

}  // namespace
}  // namespace deltacome
