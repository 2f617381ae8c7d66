// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace deltacome {

// The parts of choosing a token on the host. Candidates are ordered by probability, then id, and
// sums are taken in f64, so the same logits and draw give the same token everywhere.

/// A token that may be chosen, and its probability relative to the likeliest.
struct Candidate {
  double weight;  // exp((logit - largest) / temperature)
  int32_t id;
};

/// The smallest index of the largest logit; a NaN is not larger than anything.
inline int32_t first_largest(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best] || std::isnan(logits[best])) best = i;
  }
  return static_cast<int32_t>(best);
}

/// The top_k (0 = all) largest of weight `least_weight` or more, in order; never a NaN.
inline std::vector<Candidate> candidates_of(std::span<const float> logits, double temperature,
                                            double least_weight, int top_k) {
  const auto largest = static_cast<double>(logits[static_cast<size_t>(first_largest(logits))]);
  std::vector<Candidate> all;
  all.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp((static_cast<double>(logits[i]) - largest) / temperature);
    // Comparisons are false for NaN.
    if (weight > 0 && weight >= least_weight) all.push_back({weight, static_cast<int32_t>(i)});
  }
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  const auto k = static_cast<size_t>(std::max(top_k, 0));
  if (k == 0 || k >= all.size()) {
    std::ranges::sort(all, before);
  } else {
    std::ranges::partial_sort(all, all.begin() + static_cast<std::ptrdiff_t>(k), before);
    all.resize(k);
  }
  return all;
}

inline double mass_of(const std::vector<Candidate>& candidates) {
  double mass = 0;
  for (const Candidate& c : candidates) mass += c.weight;
  return mass;
}

/// Leaves the first candidates whose mass reaches the share top_p of all, at least one.
inline void keep_top_p(std::vector<Candidate>& candidates, double top_p) {
  if (top_p >= 1) return;
  const double enough = top_p * mass_of(candidates);
  double mass = 0;
  size_t n = 0;
  while (n < candidates.size() && (n == 0 || mass < enough)) mass += candidates[n++].weight;
  candidates.resize(n);
}

/// The token at `uniform` in [0, 1) of the candidates' mass.
inline int32_t draw_from(const std::vector<Candidate>& candidates, double uniform) {
  const double target = uniform * mass_of(candidates);
  double mass = 0;
  for (const Candidate& c : candidates) {
    mass += c.weight;
    if (mass > target) return c.id;
  }
  return candidates.back().id;
}

}  // namespace deltacome
