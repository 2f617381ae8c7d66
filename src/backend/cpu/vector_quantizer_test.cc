// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/vector_quantizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "quant/vector_codes.h"
#include "tests/support/expect_error.h"
#include "tests/support/f64_backend_test.h"

namespace deltacome::cpu {
namespace {

using test::Values;

Values normal(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> distribution;
  Values values(static_cast<size_t>(n));
  for (double& value : values) value = distribution(random);
  return values;
}

/// Positive definite and correlated: E[x x^T] with x_i = shared + own noise, of unequal energy.
Values correlated(int64_t n, uint32_t seed) {
  const int64_t samples = 3 * n;
  Values x = normal(samples * n, seed), h(static_cast<size_t>(n * n));
  const Values shared = normal(samples, seed + 1);
  for (int64_t s = 0; s < samples; ++s) {
    for (int64_t i = 0; i < n; ++i) {
      double& v = x[static_cast<size_t>(s * n + i)];
      v = (v + shared[static_cast<size_t>(s)]) * static_cast<double>(1 + i % 4);
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j)
        h[static_cast<size_t>(i * n + j)] +=
            x[static_cast<size_t>(s * n + i)] * x[static_cast<size_t>(s * n + j)];
    }
  }
  return h;
}

/// a [n, n] with a a^-1 = 1 by Gauss-Jordan without pivots: a is positive definite.
Values inverse(Values a, int64_t n) {
  Values b(a.size());
  const auto at = [n](int64_t i, int64_t j) { return static_cast<size_t>(i * n + j); };
  for (int64_t i = 0; i < n; ++i) b[at(i, i)] = 1;
  for (int64_t i = 0; i < n; ++i) {
    const double by = 1 / a[at(i, i)];
    for (int64_t j = 0; j < n; ++j) {
      a[at(i, j)] *= by;
      b[at(i, j)] *= by;
    }
    for (int64_t k = 0; k < n; ++k) {
      if (k == i) continue;
      const double f = a[at(k, i)];
      for (int64_t j = 0; j < n; ++j) {
        a[at(k, j)] -= f * a[at(i, j)];
        b[at(k, j)] -= f * b[at(i, j)];
      }
    }
  }
  return b;
}

double loss(const Values& w, const Values& q, const Values& h, int64_t rows, int64_t n) {
  double sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const auto error = [&](int64_t k) {
          return q[static_cast<size_t>(r * n + k)] - w[static_cast<size_t>(r * n + k)];
        };
        sum += error(i) * h[static_cast<size_t>(i * n + j)] * error(j);
      }
    }
  }
  return sum;
}

constexpr double kDamp = 0.01;

/// One row of LDLQ with the given codes, by Schur complements of the inverse of the Hessian instead
/// of its factor R: when the columns before are fixed, P = (H of the rest)^-1 = R^T R of the rest,
/// so a group's metric is P_gg^-1 and its errors move the rest by -e P_gg^-1 P_gr. Says how much
/// worse each code is than the best entry, relative to the scale of the entries' distances.
double worst_choice(Values row, const Values& h, int64_t n, int dim, double scale,
                    std::span<const uint8_t> codes) {
  const auto book = code_book(dim);
  double worst = 0;
  for (int64_t first = 0; first < n; first += dim) {
    const int64_t rest = n - first, g = std::min<int64_t>(dim, rest);
    Values sub(static_cast<size_t>(rest * rest)), block(static_cast<size_t>(g * g));
    for (int64_t i = 0; i < rest; ++i) {
      for (int64_t j = 0; j < rest; ++j)
        sub[static_cast<size_t>(i * rest + j)] =
            h[static_cast<size_t>((first + i) * n + first + j)];
    }
    const Values p = inverse(sub, rest);
    for (int64_t i = 0; i < g; ++i) {
      for (int64_t j = 0; j < g; ++j)
        block[static_cast<size_t>(i * g + j)] = p[static_cast<size_t>(i * rest + j)];
    }
    const Values metric = inverse(block, g);
    const auto error = [&](size_t e, int64_t i) {
      const auto k = e * static_cast<size_t>(dim) + static_cast<size_t>(i);
      return row[static_cast<size_t>(first + i)] - scale * static_cast<double>(book[k]) / 32;
    };
    const auto distance = [&](size_t e) {
      double sum = 0;
      for (int64_t i = 0; i < g; ++i) {
        for (int64_t j = 0; j < g; ++j)
          sum += error(e, i) * metric[static_cast<size_t>(i * g + j)] * error(e, j);
      }
      return sum;
    };
    double least = INFINITY, largest = 0;
    for (size_t e = 0; e < kBookEntries; ++e) {
      least = std::min(least, distance(e));
      largest = std::max(largest, distance(e));
    }
    const size_t code = codes[static_cast<size_t>(first / dim)];
    worst = std::max(worst, (distance(code) - least) / largest);
    Values pushed(static_cast<size_t>(g));  // e P_gg^-1
    for (int64_t i = 0; i < g; ++i) {
      for (int64_t j = 0; j < g; ++j)
        pushed[static_cast<size_t>(j)] += error(code, i) * metric[static_cast<size_t>(i * g + j)];
    }
    for (int64_t j = g; j < rest; ++j) {
      for (int64_t i = 0; i < g; ++i)
        row[static_cast<size_t>(first + j)] -=
            pushed[static_cast<size_t>(i)] * p[static_cast<size_t>(i * rest + j)];
    }
  }
  return worst;
}

class VectorQuantizerTest : public test::F64BackendTest {
 protected:
  std::unique_ptr<GptqFactor> factor(const Values& h, int64_t n) {
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    return ops_.gptq_factor(*stream_, put(h, {n, n}), order, kDamp);
  }
  static Values damped(Values h, int64_t n) {
    double trace = 0;
    for (int64_t i = 0; i < n; ++i) trace += h[static_cast<size_t>(i * n + i)];
    for (int64_t i = 0; i < n; ++i)
      h[static_cast<size_t>(i * n + i)] += kDamp * trace / static_cast<double>(n);
    return h;
  }
  static Values identity(int64_t n) {
    Values h(static_cast<size_t>(n * n));
    for (int64_t i = 0; i < n; ++i) h[static_cast<size_t>(i * n + i)] = 1;
    return h;
  }
  CompressionOps& ops_ = backend_->compression();
};

TEST_F(VectorQuantizerTest, IsTheTextbookRecursionInDouble) {
  // 67 and 70 columns: a panel and a bit, and a last group that is cut off for every dim but 1 / 2.
  for (const int dim : kBookDimensions) {
    for (const auto& [rows, n] :
         {std::pair<int64_t, int64_t>{1, 3}, {3, 17}, {1, 67}, {2, 70}, {2, 32}}) {
      const Values w = normal(rows * n, 5), h = correlated(n, 6);
      const auto with = factor(h, n);
      for (const bool is_fed : {false, true}) {
        const VectorQuantized q =
            ops_.quantize_vectors(*stream_, put(w, {rows, n}), is_fed ? with.get() : nullptr, dim);
        const int64_t per_row = (n + dim - 1) / dim;
        ASSERT_EQ(static_cast<int64_t>(q.codes.size()), rows * per_row);
        for (int64_t r = 0; r < rows; ++r) {
          const Values row(w.begin() + r * n, w.begin() + (r + 1) * n);
          const double rms =
              std::sqrt(std::inner_product(row.begin(), row.end(), row.begin(), 0.0) /
                        static_cast<double>(n));
          const double scale = f16_to_float(q.scales[static_cast<size_t>(r)]);
          EXPECT_NEAR(scale, rms, rms * 0x1p-11);
          // Scores are sums of dim + 1 products in float of a weighted target, itself a sum of dim:
          // gamma_(2 dim) of terms that are at most the square of the largest distance, with room
          // for a metric that is far from a multiple of 1.
          const double worst =
              worst_choice(row, is_fed ? damped(h, n) : identity(n), n, dim, scale,
                           std::span(q.codes).subspan(static_cast<size_t>(r * per_row),
                                                      static_cast<size_t>(per_row)));
          EXPECT_LT(worst, 16 * dim * 0x1p-24) << "dim " << dim << ", n " << n << ", row " << r;
        }
      }
    }
  }
}

TEST_F(VectorQuantizerTest, CodesDecodeToItsValuesAndTheInputIsLeftAlone) {
  const int64_t rows = 9, n = 70;
  const Values w = normal(rows * n, 7);
  const auto with = factor(correlated(n, 8), n);
  for (const int dim : kBookDimensions) {
    const Tensor weights = put(w, {rows, n});
    const VectorQuantized q = ops_.quantize_vectors(*stream_, weights, with.get(), dim);
    EXPECT_EQ(get(weights), w);
    const Values values = get(q.values);
    const auto book = code_book(dim);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < n; ++i) {
        const size_t code = q.codes[static_cast<size_t>(r * ((n + dim - 1) / dim) + i / dim)];
        const double entry =
            static_cast<double>(
                book[code * static_cast<size_t>(dim) + static_cast<size_t>(i % dim)]) /
            32;
        // Both factors have few bits: the product is exact.
        ASSERT_EQ(values[static_cast<size_t>(r * n + i)],
                  f16_to_float(q.scales[static_cast<size_t>(r)]) * entry);
      }
    }
  }
}

TEST_F(VectorQuantizerTest, FeedbackLowersTheLossUnderACorrelatedHessian) {
  const int64_t rows = 12, n = 96;
  const Values w = normal(rows * n, 9), h = correlated(n, 10);
  const auto with = factor(h, n);
  for (const int dim : kBookDimensions) {
    const auto loss_with = [&](const GptqFactor* f) {
      return loss(w, get(ops_.quantize_vectors(*stream_, put(w, {rows, n}), f, dim).values), h,
                  rows, n);
    };
    EXPECT_LT(loss_with(with.get()), 0.9 * loss_with(nullptr)) << dim;
  }
}

TEST_F(VectorQuantizerTest, DoesNotDependOnTheNumberOfThreads) {
  const int64_t rows = 37, n = 130;
  const Values w = normal(rows * n, 11), h = correlated(n, 12);
  const auto run = [&](int n_threads) {
    const auto backend = create_cpu_backend(n_threads);
    const auto stream = backend->create_stream();
    const auto upload = [&](const Values& values, Shape shape) {
      const Tensor t = backend->allocate(DType::kF64, std::move(shape));
      backend->upload(*stream, std::as_bytes(std::span(values)), t);
      return t;
    };
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    CompressionOps& ops = backend->compression();
    const auto f = ops.gptq_factor(*stream, upload(h, {n, n}), order, kDamp);
    return ops.quantize_vectors(*stream, upload(w, {rows, n}), f.get(), 8);
  };
  const VectorQuantized one = run(1);
  for (const int n_threads : {2, 3}) {
    const VectorQuantized more = run(n_threads);
    EXPECT_EQ(more.codes, one.codes);
    EXPECT_EQ(more.scales, one.scales);
  }
}

TEST_F(VectorQuantizerTest, ZeroRowsAndDeadInputsStayFinite) {
  const int64_t n = 20;
  Values w = normal(2 * n, 13), h(static_cast<size_t>(n * n));
  std::fill(w.begin(), w.begin() + n, 0.0);
  h[3 * n + 3] = 5;  // only input 3 is ever active
  for (const Values& hessian : {h, Values(h.size())}) {
    const auto f = factor(hessian, n);
    const Values q = get(ops_.quantize_vectors(*stream_, put(w, {2, n}), f.get(), 8).values);
    for (size_t i = 0; i < q.size(); ++i) {
      EXPECT_TRUE(std::isfinite(q[i]));
      if (i < static_cast<size_t>(n)) {
        EXPECT_LT(std::abs(q[i]), 1e-6);  // entries of less than 8, times 2^-24
      }
    }
  }
}

TEST_F(VectorQuantizerTest, SolveRightMultipliesBack) {
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{1, 1}, {5, 3}, {2, 65}}) {
    const Values a = damped(correlated(n, 14), n), b = normal(m * n, 15);
    const Tensor x = put(b, {m, n});
    ops_.solve_right(*stream_, put(a, {n, n}), x);
    const Values got = get(x);
    // Higham 10.4: the residual is at most gamma_(3n + 1) |x| |R^T| |R|, and by Cauchy and Schwarz
    // (|R^T| |R|)_ij <= sqrt(a_ii a_jj).
    const double k = static_cast<double>(3 * n + 1) * 0x1p-53;
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t j = 0; j < n; ++j) {
        double product = 0, magnitude = 0;
        for (int64_t i = 0; i < n; ++i) {
          const double v = got[static_cast<size_t>(r * n + i)];
          product += v * a[static_cast<size_t>(i * n + j)];
          magnitude += std::abs(v) * std::sqrt(a[static_cast<size_t>(i * n + i)] *
                                               a[static_cast<size_t>(j * n + j)]);
        }
        EXPECT_NEAR(product, b[static_cast<size_t>(r * n + j)], 2 * k / (1 - k) * magnitude);
      }
    }
  }
}

TEST_F(VectorQuantizerTest, SolveRightRefusesAnIndefiniteMatrix) {
  test::expect_error(ErrorCode::kInternal, "not positive definite", [&] {
    ops_.solve_right(*stream_, put({1, 2, 2, 1}, {2, 2}), put({1, 1}, {1, 2}));
  });
}

TEST_F(VectorQuantizerTest, RotateRowsIsTheRotationOfTheFormat) {
  for (const int64_t n : {int64_t{1}, int64_t{15}, int64_t{24}, int64_t{64}}) {
    const int64_t rows = 19;  // more than one piece of work
    const std::vector<float> signs = rotation_signs(3, n);
    Values want = normal(rows * n, 16);
    const Tensor a = put(want, {rows, n});
    ops_.rotate_rows(*stream_, a, signs, rotation_block(n));
    for (int64_t r = 0; r < rows; ++r)
      rotate(std::span(want).subspan(static_cast<size_t>(r * n), static_cast<size_t>(n)), signs,
             rotation_block(n));
    EXPECT_EQ(get(a), want);
  }
}

}  // namespace
}  // namespace deltacome::cpu
