// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "backend/cpu/test_support.h"
#include "backend/training_ops.h"

namespace deltacome::cpu::testing {

using Doubles = std::vector<double>;

inline Doubles doubles(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}
inline double dot(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
inline std::vector<float> values(const Guarded& x) {
  const Tensor t = x.tensor();
  return {f32(t), f32(t) + t.size()};
}

/// Central differences of f at x, in float64; exact to about 1e-9 of f's third derivatives.
inline Doubles differences(const std::function<double(const Doubles&)>& f, Doubles x) {
  constexpr double kStep = 1e-4;
  Doubles gradient;
  for (double& v : x) {
    const double at = v;
    v = at + kStep;
    const double above = f(x);
    v = at - kStep;
    const double below = f(x);
    v = at;
    gradient.push_back((above - below) / (2 * kStep));
  }
  return gradient;
}

/// Every element of `got` is within its bound of `want`; names the worst one.
inline ::testing::AssertionResult within(const std::vector<float>& got, const Doubles& want,
                                         const Doubles& bound) {
  if (got.size() != want.size()) return ::testing::AssertionFailure() << "sizes";
  size_t worst = 0;
  double worst_ratio = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - want[i]);
    const double ratio = std::isfinite(got[i]) ? error / (bound[i] + 1e-37) : INFINITY;
    if (ratio > worst_ratio) worst = i, worst_ratio = ratio;
  }
  if (worst_ratio <= 1) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "element " << worst << ": " << got[worst] << ", expected "
                                       << want[worst] << " within " << bound[worst];
}
inline ::testing::AssertionResult within(const std::vector<float>& got, const Doubles& want,
                                         double bound) {
  return within(got, want, Doubles(want.size(), bound));
}
/// Finite differences: relative to the largest element.
inline ::testing::AssertionResult near_differences(const std::vector<float>& got,
                                                   const Doubles& want) {
  double largest = 0;
  for (const double v : want) largest = std::max(largest, std::abs(v));
  return within(got, want, 1e-5 * (largest + 1e-3));
}

class TrainingTest : public EachIsa {
 protected:
  Tensor put(Shape shape, const std::vector<float>& v) {
    return device_tensor(backend_, std::move(shape), v);
  }
  Guarded guarded(int64_t rows, int64_t cols, const std::vector<float>& v) {
    Guarded g(backend_, rows, cols);
    std::ranges::copy(v, f32(g.tensor()));
    return g;
  }
  std::vector<float> floats(int64_t n, float scale = 1) { return random_floats(rng_, n, scale); }

  TrainingOps& ops_ = backend_.training();
};

}  // namespace deltacome::cpu::testing
