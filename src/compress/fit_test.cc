// SPDX-License-Identifier: Apache-2.0
#include "compress/fit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "compress/codec.h"
#include "compress/plan.h"
#include "quant/codes.h"
#include "quant/vector_codes.h"
#include "tests/support/f64_backend_test.h"

namespace deltacome {
namespace {

using test::Values;

struct Widths {
  int64_t rank;
  int v, u;
};

MatrixFormat format_of(Codec codec, Shape shape) {
  return {.codec = codec,
          .shape = shape,
          .base_rows = shape[0],
          .dense = {},
          .tiers = {},
          .row_gain = codec == Codec::kLowRank};
}
MatrixFormat low_rank(Shape shape, const std::vector<Widths>& tiers) {
  MatrixFormat format = format_of(Codec::kLowRank, std::move(shape));
  for (const Widths& t : tiers) format.tiers.push_back({t.rank, {t.v, 0, 0}, {t.u, 0, 0}});
  return format;
}
MatrixFormat vector(Shape shape, int dim, uint64_t seed = 4) {
  MatrixFormat format = format_of(Codec::kVector, std::move(shape));
  format.vector = {dim, rotation_block(format.n_in()), seed};
  return format;
}
MatrixFormat dense(Shape shape, int bits) {
  MatrixFormat format = format_of(Codec::kDense, std::move(shape));
  format.dense = {bits, 1, 0};
  return format;
}

class FitTest : public test::F64BackendTest {
 protected:
  static Values normal(int64_t n, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> distribution;
    Values values(static_cast<size_t>(n));
    for (double& value : values) value = 1e-3 * distribution(random);
    return values;
  }
  /// Sum of (1 + i)^-decay times rank-one terms, `rank` of them.
  static Values decaying(const Shape& shape, double decay, uint32_t seed, int64_t rank) {
    Values d(static_cast<size_t>(element_count(shape)));
    for (int64_t i = 0; i < rank; ++i) {
      const Values u = normal(shape[0], seed + 2 * static_cast<uint32_t>(i)),
                   v = normal(shape[1], seed + 2 * static_cast<uint32_t>(i) + 1);
      const double s = 1e3 * std::pow(static_cast<double>(1 + i), -decay);
      for (size_t r = 0; r < u.size(); ++r) {
        for (size_t c = 0; c < v.size(); ++c) d[r * v.size() + c] += s * u[r] * v[c];
      }
    }
    return d;
  }
  /// E[x x^T] of correlated channels of unequal energy.
  static Values correlated(int64_t n, uint32_t seed) {
    const int64_t samples = 4 * n;
    Values x = normal(samples * n, seed), c(static_cast<size_t>(n * n));
    const Values shared = normal(samples, seed + 1);
    for (int64_t s = 0; s < samples; ++s) {
      double* row = x.data() + s * n;
      for (int64_t i = 0; i < n; ++i)
        row[i] = 1e3 * (row[i] + shared[static_cast<size_t>(s)]) * (i % 7 == 0 ? 3.0 : 0.5);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j)
          c[static_cast<size_t>(i * n + j)] += row[i] * row[j] / static_cast<double>(samples);
      }
    }
    return c;
  }

  CodedTensor encode(const MatrixFormat& format, const Values& d, const Values& c) {
    const int64_t n = format.n_in();
    InputFit input(*backend_, *stream_, c.empty() ? Tensor{} : put(c, {n, n}), n);
    const Tensor exact = put(d, format.shape);
    CodedTensor coded = encode_fit(*backend_, *stream_, "w", format, exact, input);
    EXPECT_EQ(get(exact), d);  // left alone
    EXPECT_EQ(static_cast<int64_t>(coded.blob.size()), layout_of(format).total_bytes);
    return coded;
  }
  /// The stored delta [n_out, n_in] by the scalar oracle.
  static Values decoded(const CodedTensor& coded) {
    const DecodedDelta q = decode_delta(coded.format, coded.blob);
    if (coded.format.codec != Codec::kLowRank) return {q.v.begin(), q.v.end()};
    const auto rank = static_cast<size_t>(coded.format.rank()),
               n_in = static_cast<size_t>(coded.format.n_in());
    Values out(static_cast<size_t>(element_count(coded.format.shape)));
    for (size_t i = 0; i < out.size(); ++i) {
      for (size_t r = 0; r < rank; ++r)
        out[i] += static_cast<double>(q.u[i / n_in * rank + r]) * static_cast<double>(q.s[r]) *
                  static_cast<double>(q.v[r * n_in + i % n_in]);
    }
    return out;
  }
  /// a C b^T of one row each.
  static double product(const double* a, const double* b, const Values& c, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (c.empty()) sum += a[i] * b[i];
      for (int64_t j = 0; j < n && !c.empty(); ++j)
        sum += a[i] * c[static_cast<size_t>(i * n + j)] * b[j];
    }
    return sum;
  }
  /// E|(q - d) x|^2 / E|d x|^2 in plain loops, q what the blob decodes to.
  static double relative_error(const CodedTensor& coded, const Values& d, const Values& c) {
    const Values q = decoded(coded);
    const int64_t n = coded.format.n_in();
    double error = 0, whole = 0;
    for (int64_t first = 0; first < element_count(coded.format.shape); first += n) {
      Values rest(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i)
        rest[static_cast<size_t>(i)] =
            q[static_cast<size_t>(first + i)] - d[static_cast<size_t>(first + i)];
      error += product(rest.data(), rest.data(), c, n);
      whole += product(d.data() + first, d.data() + first, c, n);
    }
    return whole > 0 ? error / whole : 0;
  }
  static std::vector<MatrixFormat> formats_of(const Shape& shape) {
    const int64_t full = std::min(shape[0], shape[1]);
    std::vector<MatrixFormat> out{
        low_rank(shape, {{full / 4, 8, 8}, {full / 4, 3, 4}, {full - 2 * (full / 4), 1, 2}}),
        low_rank(shape, {{full / 2, 2, 3}}),
        dense(shape, 2),
        dense(shape, 3),
        dense(shape, 4),
        dense(shape, 8)};
    for (const int dim : kBookDimensions) out.push_back(vector(shape, dim));
    out.push_back(out[0]);
    out.back().row_gain = false;
    out.push_back(vector(shape, 8));
    out.back().col_gain = true;
    return out;
  }
};

TEST_F(FitTest, MeasuredErrorIsThatOfTheStoredBytes) {
  for (const Shape& shape : {Shape{48, 40}, Shape{33, 65}}) {
    const Values d = decaying(shape, 1, 5, std::min(shape[0], shape[1]));
    for (const Values& c : {correlated(shape[1], 7), Values{}}) {
      for (const MatrixFormat& format : formats_of(shape)) {
        const CodedTensor coded = encode(format, d, c);
        const double want = relative_error(coded, d, c);
        // The oracle works in float: some 2^-22 of each value, of which the error's square root has
        // the share eps / sqrt(error), twice.
        EXPECT_NEAR(coded.stats.relative_error, want, 1e-5 * want + 1e-6 * std::sqrt(want) + 1e-9)
            << codec_name(format.codec) << " " << format.dense.bits << " " << format.vector.dim;
        // Unbiased rows of a code with error e have e / (1 - e): of half a bit a weight the most.
        const double coarsest = code_book_error(16);
        EXPECT_LT(want, coarsest / (1 - coarsest)) << codec_name(format.codec);
      }
    }
  }
}

TEST_F(FitTest, RowsAreUnbiasedUnderTheInput) {
  const Shape shape{40, 48};
  const Values d = decaying(shape, 0.5, 11, 40), c = correlated(48, 12);
  for (const MatrixFormat& format : formats_of(shape)) {
    if (format.codec == Codec::kLowRank && !format.row_gain) continue;
    const Values q = decoded(encode(format, d, c));
    // Half a step of a u8 gain, 2^(1 / 128); fp16 of a scale is finer.
    const double step = format.codec == Codec::kLowRank ? std::exp2(1.0 / 128) - 1 : 0x1p-10;
    int unclamped = 0;
    for (int64_t r = 0; r < shape[0]; ++r) {
      const double got = product(q.data() + r * 48, d.data() + r * 48, c, 48),
                   want = product(d.data() + r * 48, d.data() + r * 48, c, 48);
      if (got < (1 - step) * want) continue;  // the gain is at its largest, 2
      EXPECT_NEAR(got / want, 1, step * 1.01) << codec_name(format.codec) << ", row " << r;
      ++unclamped;
    }
    EXPECT_GT(unclamped, 36) << codec_name(format.codec) << " " << format.vector.dim;
  }
}

TEST_F(FitTest, SolvedFactorsBeatTheDecompositionsAtEqualBytes) {
  const Shape shape{96, 64};
  const Values d = decaying(shape, 1, 9, 64), c = correlated(64, 11);
  const MatrixFormat come = plan_projection(Method::kCome, shape, 2.5, 16);
  MatrixFormat fit = low_rank(shape, {});
  for (const TierFormat& tier : come.tiers) {
    const int bits = std::min(tier.v.bits, 8), u_bits = std::min(tier.u.bits, 8);
    fit.tiers.push_back({tier.rank, {bits, 0, 0}, {u_bits, 0, 0}});
  }
  ASSERT_LE(layout_of(fit).total_bytes, layout_of(come).total_bytes);
  const InputStatistics input = make_statistics(*backend_, *stream_, put(c, {64, 64}));
  const double others =
      relative_error(encode_projection(*backend_, *stream_, "w", come, put(d, shape), input), d, c);
  EXPECT_LT(relative_error(encode(fit, d, c), d, c), others);
}

TEST_F(FitTest, CoarseTiersHelpBesidesPreciseOnes) {
  // Integers of 8 bits have thousands of times the energy of those of 1 bit: neither the system of
  // U nor that of s may lose the small ones.
  const Shape shape{64, 96};
  const Values d = decaying(shape, 0.3, 13, 64), c = correlated(96, 14);
  const auto error = [&](const MatrixFormat& format) {
    return relative_error(encode(format, d, c), d, c);
  };
  const double precise = error(low_rank(shape, {{8, 8, 8}}));
  const double both = error(low_rank(shape, {{8, 8, 8}, {24, 1, 1}}));
  const double all_precise = error(low_rank(shape, {{32, 8, 8}}));
  // Of the energy of a Gaussian component 1 - 0.363 is kept by each factor of one bit.
  EXPECT_LT(both, precise - 0.35 * (precise - all_precise));
}

TEST_F(FitTest, VectorCodesSuitFlatDeltasAndLowRankSteepOnes) {
  const Shape shape{64, 64};
  const MatrixFormat whole = vector(shape, 8), for_flat = low_rank(shape, {{18, 2, 2}}),
                     for_steep = low_rank(shape, {{3, 8, 8}, {6, 1, 1}});
  const int64_t bytes = layout_of(whole).total_bytes;
  ASSERT_GE(layout_of(for_flat).total_bytes, bytes);
  ASSERT_LE(layout_of(for_steep).total_bytes, bytes);
  const auto error = [&](const MatrixFormat& format, const Values& d, const Values& c) {
    return relative_error(encode(format, d, c), d, c);
  };
  const Values flat = normal(64 * 64, 15), steep = decaying(shape, 3, 17, 64),
               c = correlated(64, 16);
  EXPECT_LT(error(whole, flat, {}), error(for_flat, flat, {}));
  EXPECT_GT(error(whole, steep, {}), error(for_steep, steep, {}));
  EXPECT_GT(error(whole, steep, c), error(for_steep, steep, c));
}

TEST_F(FitTest, DegenerateDeltasAndInputsStayFinite) {
  const Shape shape{24, 15};                // a rotation in blocks of 1
  Values poor = decaying(shape, 1, 19, 3);  // of rank 3
  std::fill(poor.begin() + 15, poor.begin() + 45, 0.0);
  Values dead = correlated(15, 20);
  for (int64_t i = 0; i < 15; ++i) {
    for (const int64_t j : {2, 9})
      dead[static_cast<size_t>(i * 15 + j)] = dead[static_cast<size_t>(j * 15 + i)] = 0;
  }
  // Inputs that are all alike: what else there is of them is the rounding of sums.
  Values alike = normal(15 * 15, 21);
  for (int64_t i = 0; i < 15; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double& value = alike[static_cast<size_t>(i * 15 + j)];
      value = 1 + 1e-4 * value;
      alike[static_cast<size_t>(j * 15 + i)] = value;
    }
  }
  for (const Values& d : {poor, Values(poor.size())}) {
    for (const Values& c : {dead, alike, Values(dead.size()), Values{}}) {
      for (const MatrixFormat& format : formats_of(shape)) {
        const CodedTensor coded = encode(format, d, c);
        EXPECT_TRUE(std::isfinite(coded.stats.relative_error));
        for (const double value : decoded(coded)) {
          ASSERT_TRUE(std::isfinite(value)) << codec_name(format.codec);
          ASSERT_LT(std::abs(value), 100) << codec_name(format.codec);
        }
      }
    }
  }
}

TEST_F(FitTest, IsDeterministicAndAnInputServesAllOfItsMatrices) {
  const Shape shape{40, 48};
  const Values d = decaying(shape, 1, 21, 40), c = correlated(48, 22);
  InputFit shared(*backend_, *stream_, put(c, {48, 48}), 48);
  std::vector<MatrixFormat> formats = formats_of(shape);
  std::stable_partition(formats.begin(), formats.end(),
                        [](const MatrixFormat& format) { return format.codec != Codec::kVector; });
  for (const MatrixFormat& format : formats) {
    const CodedTensor with = encode_fit(*backend_, *stream_, "w", format, put(d, shape), shared);
    EXPECT_EQ(with.blob, encode(format, d, c).blob);
  }
}

TEST_F(FitTest, CurveHasAllOfTheOutputsEnergyLargestFirst) {
  for (const Shape& shape : {Shape{40, 48}, Shape{33, 15}}) {
    const Values d = decaying(shape, 1, 23, std::min(shape[0], shape[1])),
                 c = correlated(shape[1], 24);
    const InputFit input(*backend_, *stream_, put(c, {shape[1], shape[1]}), shape[1]);
    const MatrixCurve curve = measure_curve(*backend_, *stream_, "w", put(d, shape), input);
    double energy = 0, sum = 0;
    for (int64_t r = 0; r < shape[0]; ++r)
      energy += product(d.data() + r * shape[1], d.data() + r * shape[1], c, shape[1]);
    for (size_t i = 0; i < curve.components.size(); ++i) {
      sum += curve.components[i];
      EXPECT_LE(curve.components[i], curve.components[i > 0 ? i - 1 : 0]);
    }
    EXPECT_EQ(curve.shape, shape);
    EXPECT_NEAR(curve.energy, energy, 1e-10 * energy);
    // u_i are orthogonal, so that outputs of components have no energy in common.
    EXPECT_NEAR(sum, energy, 1e-8 * energy);
  }
}

}  // namespace
}  // namespace deltacome
