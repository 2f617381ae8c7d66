// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace deltacome::cpu {
namespace {

struct Candidate {
  double weight;  // exp((logit - largest) / temperature)
  int32_t id;
};

int32_t first_largest(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best] || std::isnan(logits[best])) best = i;
  }
  return static_cast<int32_t>(best);
}

/// The top_k largest, in order.
std::vector<Candidate> candidates_of(std::span<const float> logits, const SampleParams& params) {
  const double largest = logits[static_cast<size_t>(first_largest(logits))];
  std::vector<Candidate> all;
  all.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp((logits[i] - largest) / params.temperature);
    if (weight > 0) all.push_back({weight, static_cast<int32_t>(i)});  // false for NaN
  }
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  const auto top_k = static_cast<size_t>(std::max(params.top_k, 0));
  if (top_k == 0 || top_k >= all.size()) {
    std::ranges::sort(all, before);
  } else {
    std::ranges::partial_sort(all, all.begin() + static_cast<std::ptrdiff_t>(top_k), before);
    all.resize(top_k);
  }
  return all;
}

double mass_of(const std::vector<Candidate>& candidates) {
  double mass = 0;
  for (const Candidate& c : candidates) mass += c.weight;
  return mass;
}

}  // namespace

int32_t sample_row(std::span<const float> logits, const SampleParams& params) {
  logits = logits.first(static_cast<size_t>(params.vocab_size));
  const int32_t greedy = first_largest(logits);
  // All probability on one token, or none anywhere (all -inf or NaN).
  if (params.temperature <= 0 || !std::isfinite(logits[static_cast<size_t>(greedy)])) return greedy;
  std::vector<Candidate> candidates = candidates_of(logits, params);
  if (params.top_p < 1) {
    const double enough = static_cast<double>(params.top_p) * mass_of(candidates);
    double mass = 0;
    size_t n = 0;
    while (n < candidates.size() && (n == 0 || mass < enough)) mass += candidates[n++].weight;
    candidates.resize(n);
  }
  const double least = static_cast<double>(params.min_p) * candidates.front().weight;
  std::erase_if(candidates, [least](const Candidate& c) { return c.weight < least; });
  const double target = params.uniform * mass_of(candidates);
  double mass = 0;
  for (const Candidate& c : candidates) {
    mass += c.weight;
    if (mass > target) return c.id;
  }
  return candidates.back().id;
}

}  // namespace deltacome::cpu
