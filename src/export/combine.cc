// SPDX-License-Identifier: Apache-2.0
#include "export/combine.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace deltacome {
namespace {

/// FNV-1a: the same on every machine.
uint64_t hash_of(std::string_view text) {
  uint64_t hash = 14695981039346656037u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

/// SplitMix64 of Steele, Lea and Flood: the i-th number of a stream, for any i at once.
uint64_t random_bits(uint64_t seed, uint64_t i) {
  uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// Keeps the `density` largest magnitudes (ties of the smallest kept one are all kept).
void trim(std::vector<float>& delta, double density) {
  const auto n = static_cast<int64_t>(delta.size());
  const auto kept = static_cast<int64_t>(std::ceil(density * static_cast<double>(n)));
  if (kept >= n) return;
  std::vector<float> magnitudes(delta.size());
  std::transform(delta.begin(), delta.end(), magnitudes.begin(),
                 [](float x) { return std::abs(x); });
  const auto smallest = magnitudes.begin() + (n - kept);
  std::nth_element(magnitudes.begin(), smallest, magnitudes.end());
  for (float& x : delta) {
    if (std::abs(x) < *smallest) x = 0;
  }
}

void drop(std::vector<float>& delta, double density, uint64_t seed) {
  const double scale = 1 / density;
  for (size_t i = 0; i < delta.size(); ++i) {
    const double uniform = static_cast<double>(random_bits(seed, i) >> 11) * 0x1p-53;
    delta[i] = uniform < density ? static_cast<float>(delta[i] * scale) : 0.0f;
  }
}

/// Per element: the sign of the weighted sum, then the weighted mean of those that have it.
float elected_mean(const std::vector<double>& weights,
                   const std::vector<std::vector<float>>& deltas, size_t i) {
  double sum = 0;
  for (size_t k = 0; k < deltas.size(); ++k) sum += weights[k] * deltas[k][i];
  double agreeing = 0;
  int n = 0;
  for (size_t k = 0; k < deltas.size(); ++k) {
    const double part = weights[k] * deltas[k][i];
    if (part * sum <= 0) continue;
    agreeing += part;
    ++n;
  }
  return n == 0 ? 0.0f : static_cast<float>(agreeing / n);
}

}  // namespace

std::vector<float> combine(const CombineRule& rule, std::string_view tensor,
                           std::vector<std::vector<float>>& deltas) {
  DELTACOME_CHECK(!deltas.empty() && deltas.size() == rule.weights.size());
  for (const std::vector<float>& delta : deltas)
    DELTACOME_CHECK(delta.size() == deltas.front().size());
  for (size_t k = 0; k < deltas.size(); ++k) {
    if (rule.combination == Combination::kTies) trim(deltas[k], rule.density);
    if (rule.combination == Combination::kDare)
      drop(deltas[k], rule.density, random_bits(rule.seed ^ hash_of(tensor), k));
  }
  std::vector<float> out(deltas.front().size());
  for (size_t i = 0; i < out.size(); ++i) {
    if (rule.combination == Combination::kTies) {
      out[i] = elected_mean(rule.weights, deltas, i);
      continue;
    }
    double sum = 0;
    for (size_t k = 0; k < deltas.size(); ++k) sum += rule.weights[k] * deltas[k][i];
    out[i] = static_cast<float>(sum);
  }
  return out;
}

}  // namespace deltacome
