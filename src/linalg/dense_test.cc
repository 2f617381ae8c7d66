// SPDX-License-Identifier: Apache-2.0
#include "linalg/dense.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "deltacome/error.h"

namespace deltacome::linalg {
namespace {

std::vector<double> random_values(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> values(static_cast<size_t>(n));
  for (double& value : values) value = normal(random);
  return values;
}

std::vector<double> spd(int64_t n, uint32_t seed) {  // B^T B + I
  std::vector<double> b = random_values(n * n, seed), a(b.size());
  gemm({b.data(), n, n}, true, {b.data(), n, n}, false, {a.data(), n, n});
  for (int64_t i = 0; i < n; ++i) a[static_cast<size_t>(i * n + i)] += 1;
  return a;
}

TEST(Dense, EighRowsAreOrthonormalAndDiagonalize) {
  for (const int64_t n : {1, 2, 7, 65}) {
    const std::vector<double> a = spd(n, 3);
    std::vector<double> copy = a, left(a.size()), product(a.size());
    const View v{copy.data(), n, n};
    const std::vector<double> values = eigh(v);
    gemm(v, false, {const_cast<double*>(a.data()), n, n}, false, {left.data(), n, n});
    gemm({left.data(), n, n}, false, v, true, {product.data(), n, n});
    for (int64_t i = 0; i < n; ++i) {
      if (i > 0) {
        EXPECT_LE(values[static_cast<size_t>(i - 1)], values[static_cast<size_t>(i)]);
      }
      for (int64_t j = 0; j < n; ++j) {
        const double want = i == j ? values[static_cast<size_t>(i)] : 0;
        EXPECT_NEAR(product[static_cast<size_t>(i * n + j)], want, 1e-11 * values.back());
      }
    }
  }
}

TEST(Dense, InverseCholeskyTimesItsTransposeInverts) {
  for (const int64_t n : {1, 3, 64, 129}) {
    const std::vector<double> a = spd(n, 5);
    std::vector<double> r = a, inverse(a.size()), identity(a.size());
    inverse_cholesky({r.data(), n, n});
    gemm({r.data(), n, n}, true, {r.data(), n, n}, false, {inverse.data(), n, n});
    gemm({inverse.data(), n, n}, false, {const_cast<double*>(a.data()), n, n}, false,
         {identity.data(), n, n});
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        EXPECT_NEAR(identity[static_cast<size_t>(i * n + j)], i == j ? 1 : 0, 1e-9);
        if (j < i) {
          EXPECT_EQ(r[static_cast<size_t>(i * n + j)], 0) << "R is upper triangular";
        }
      }
    }
  }
}

TEST(Dense, AnIndefiniteHessianIsAnErrorNotNan) {
  std::vector<double> a{1, 2, 2, 1};
  EXPECT_THROW(inverse_cholesky({a.data(), 2, 2}), Error);
}

}  // namespace
}  // namespace deltacome::linalg
