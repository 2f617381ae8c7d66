// SPDX-License-Identifier: Apache-2.0
#include "compress/taught_text.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <random>

namespace deltacome {
namespace {

constexpr size_t kEvaluated = 4;       // sequences that are measured at a time
constexpr double kEntropyFloor = 0.1;  // nats

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from, int64_t first, int64_t last) {
  to.insert(to.end(), from.begin() + first, from.begin() + last);
}

}  // namespace

int64_t count_tokens(const std::vector<std::vector<int32_t>>& sequences) {
  int64_t n = 0;
  for (const auto& sequence : sequences) n += static_cast<int64_t>(sequence.size());
  return n;
}

TaughtText first_tokens(const TaughtText& text, int64_t n_tokens) {
  TaughtText out;
  out.targets.k = text.targets.k;
  int64_t n = 0;
  for (const auto& sequence : text.sequences) {
    if (n >= n_tokens) break;
    out.sequences.push_back(sequence);
    n += static_cast<int64_t>(sequence.size());
  }
  append(out.targets.ids, text.targets.ids, 0, n * text.targets.k);
  append(out.targets.log_p, text.targets.log_p, 0, n * text.targets.k);
  if (!text.weights.empty()) append(out.weights, text.weights, 0, n);
  return out;
}

std::vector<float> certainty_weights(const TopTargets& targets) {
  const auto k = static_cast<size_t>(targets.k);
  const char* env = std::getenv("DC_H0");
  const double floor = env ? std::atof(env) : kEntropyFloor;
  std::vector<double> raw;
  for (size_t first = 0; first < targets.log_p.size(); first += k) {
    double entropy = 0, rest = 1;
    for (size_t i = first; i < first + k; ++i) {
      const double log_p = static_cast<double>(targets.log_p[i]), p = std::exp(log_p);
      if (p > 0) entropy -= p * log_p;
      rest -= p;
    }
    if (rest > 0) entropy -= rest * std::log(rest);
    raw.push_back(1 / (entropy + floor));
  }
  const double mean =
      std::accumulate(raw.begin(), raw.end(), 0.0) / static_cast<double>(raw.size());
  std::vector<float> out;
  for (const double w : raw) out.push_back(static_cast<float>(w / mean));
  return out;
}

std::vector<int32_t> draw_labels(const TopTargets& targets, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> labels;
  const auto k = static_cast<size_t>(targets.k);
  for (size_t first = 0; first < targets.ids.size(); first += k) {
    double mass = 0;
    for (size_t i = 0; i < k; ++i) mass += std::exp(static_cast<double>(targets.log_p[first + i]));
    double left = mass * static_cast<double>(random() >> 11) * 0x1p-53;
    size_t chosen = k - 1;
    for (size_t i = 0; i < k; ++i) {
      left -= std::exp(static_cast<double>(targets.log_p[first + i]));
      if (left < 0) {
        chosen = i;
        break;
      }
    }
    labels.push_back(targets.ids[first + chosen]);
  }
  return labels;
}

std::vector<int64_t> offsets_of(const TaughtText& text) {
  std::vector<int64_t> out{0};
  for (const auto& sequence : text.sequences)
    out.push_back(out.back() + static_cast<int64_t>(sequence.size()));
  return out;
}

KlSums run_on(BackwardPass& pass, const TaughtText& text, const std::vector<int64_t>& offsets,
              std::span<const size_t> chosen, bool backward) {
  std::vector<std::span<const int32_t>> sequences;
  std::vector<int32_t> ids;
  std::vector<float> log_p, weights;
  const int64_t k = text.targets.k;
  for (const size_t i : chosen) {
    const int64_t first = offsets[i], last = offsets[i + 1];
    sequences.emplace_back(text.sequences[i]);
    append(ids, text.targets.ids, first * k, last * k);
    append(log_p, text.targets.log_p, first * k, last * k);
    if (!text.weights.empty()) append(weights, text.weights, first, last);
  }
  return pass.run(sequences, {k, ids, log_p, weights}, backward);
}

KlSums mean_kl(BackwardPass& pass, const TaughtText& text) {
  const std::vector<int64_t> offsets = offsets_of(text);
  const size_t n_sequences = text.sequences.size();
  KlSums sums;
  for (size_t first = 0; first < n_sequences; first += kEvaluated) {
    std::vector<size_t> chosen(std::min(kEvaluated, n_sequences - first));
    std::iota(chosen.begin(), chosen.end(), first);
    const KlSums means = run_on(pass, text, offsets, chosen, false);
    const auto n = static_cast<double>(offsets[first + chosen.size()] - offsets[first]);
    sums.kl += n * means.kl;
    sums.weighted += n * means.weighted;
  }
  const auto n_tokens = static_cast<double>(offsets.back());
  return {sums.kl / n_tokens, sums.weighted / n_tokens};
}

}  // namespace deltacome
