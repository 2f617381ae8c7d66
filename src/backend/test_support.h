// SPDX-License-Identifier: Apache-2.0
// What the tests of every backend need.
#pragma once

#include <random>
#include <utility>
#include <vector>

#include "core/host_tensor.h"

namespace deltacome::test {

/// gamma_k = k u / (1 - k u): bound on the rounding error of a sum of k products in f32 (Higham
/// 2002, section 3.1).
inline double gamma_k(int64_t k) {
  const double u = 0x1p-24;
  return static_cast<double>(k) * u / (1 - static_cast<double>(k) * u);
}

using Rng = std::mt19937;

inline std::vector<float> random_floats(Rng& rng, int64_t n, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out) v = normal(rng);
  return out;
}

inline HostTensor host_tensor(DType dtype, Shape shape, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * static_cast<size_t>(dtype_bytes(dtype)));
  convert_from_float(values, dtype, bytes.data());
  return HostTensor::of(dtype, std::move(shape), std::move(bytes));
}

}  // namespace deltacome::test
