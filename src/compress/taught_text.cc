// SPDX-License-Identifier: Apache-2.0
#include "compress/taught_text.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace deltacome {
namespace {

constexpr int64_t kEvaluated = 2048;   // tokens that are measured at a time
constexpr double kOpenEntropy = 0.03;  // nats: a passage of it weighs half of a certain one
constexpr double kNeighbours = 16;     // tokens on either side, weighed by exponential decay

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from, int64_t first, int64_t last) {
  to.insert(to.end(), from.begin() + first, from.begin() + last);
}

/// Of every position's prediction, in nats; what is outside of the k is one token.
std::vector<double> entropies_of(const TopTargets& targets) {
  const auto k = static_cast<size_t>(targets.k);
  std::vector<double> out;
  for (size_t first = 0; first < targets.log_p.size(); first += k) {
    double entropy = 0, rest = 1;
    for (size_t i = first; i < first + k; ++i) {
      const auto log_p = static_cast<double>(targets.log_p[i]);
      const double p = std::exp(log_p);
      if (p > 0) entropy -= p * log_p;
      rest -= p;
    }
    if (rest > 0) entropy -= rest * std::log(rest);
    out.push_back(entropy);
  }
  return out;
}

/// Whether something is predicted at each position: not where a picture's row follows.
std::vector<bool> predicted_positions(const TaughtText& text) {
  std::vector<bool> out;
  for (const auto& sequence : text.sequences) {
    for (size_t i = 0; i < sequence.size(); ++i)
      out.push_back(i + 1 == sequence.size() || sequence[i + 1] >= 0);
  }
  return out;
}

/// values[t] = sum_u values[u] keep^|t - u| / sum_u keep^|t - u|, u among those that count.
void average_over_neighbours(std::span<double> values, std::span<const double> counted,
                             double keep) {
  std::vector<double> sums(values.size()), counts(values.size());
  double sum = 0, count = 0;  // of what is before
  for (size_t t = 0; t < values.size(); ++t) {
    values[t] *= counted[t];
    sums[t] = sum + values[t];
    counts[t] = count + counted[t];
    sum = sums[t] * keep;
    count = counts[t] * keep;
  }
  sum = count = 0;  // of what is behind
  for (size_t t = values.size(); t-- > 0;) {
    sums[t] += sum;
    counts[t] += count;
    sum = (sum + values[t]) * keep;
    count = (count + counted[t]) * keep;
  }
  for (size_t t = 0; t < values.size(); ++t) values[t] = counts[t] > 0 ? sums[t] / counts[t] : 0;
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

std::vector<float> certainty_weights(const TaughtText& text) {
  std::vector<double> weights = entropies_of(text.targets);
  const std::vector<bool> predicted = predicted_positions(text);
  const std::vector<double> counted(predicted.begin(), predicted.end());
  const std::vector<int64_t> offsets = offsets_of(text);
  double sum = 0;
  for (size_t i = 0; i < text.sequences.size(); ++i) {
    const auto part = [&](auto& of) {
      return std::span(of).subspan(static_cast<size_t>(offsets[i]), text.sequences[i].size());
    };
    average_over_neighbours(part(weights), part(counted), 1 - 1 / kNeighbours);
  }
  for (size_t i = 0; i < weights.size(); ++i)
    sum += weights[i] = counted[i] / (weights[i] + kOpenEntropy);
  std::vector<float> out;
  for (const double w : weights)
    out.push_back(static_cast<float>(w / sum * static_cast<double>(weights.size())));
  return out;
}

std::vector<float> predicted_weights(const TaughtText& text) {
  const std::vector<bool> predicted = predicted_positions(text);
  const auto n = std::ranges::count(predicted, true);
  if (n == static_cast<int64_t>(predicted.size())) return {};
  const auto weight = static_cast<float>(predicted.size()) / static_cast<float>(n);
  std::vector<float> out;
  for (const bool is : predicted) out.push_back(is ? weight : 0);
  return out;
}

double run_on(BackwardPass& pass, const TaughtText& text, const std::vector<int64_t>& offsets,
              std::span<const size_t> chosen, bool backward, std::span<const float> weights) {
  std::vector<std::span<const int32_t>> sequences;
  std::vector<int32_t> ids;
  std::vector<float> log_p, chosen_weights;
  const int64_t k = text.targets.k;
  for (const size_t i : chosen) {
    const int64_t first = offsets[i], last = offsets[i + 1];
    sequences.emplace_back(text.sequences[i]);
    append(ids, text.targets.ids, first * k, last * k);
    append(log_p, text.targets.log_p, first * k, last * k);
    if (!weights.empty())
      chosen_weights.insert(chosen_weights.end(), weights.begin() + first, weights.begin() + last);
  }
  return pass.run(sequences, {k, ids, log_p, chosen_weights}, backward);
}

std::vector<std::vector<size_t>> batches_of(const TaughtText& text, int64_t n_tokens) {
  std::vector<std::vector<size_t>> out;
  int64_t left = 0;
  for (size_t i = 0; i < text.sequences.size(); ++i) {
    const auto n = static_cast<int64_t>(text.sequences[i].size());
    if (out.empty() || n > left) {
      out.emplace_back();
      left = n_tokens;
    }
    out.back().push_back(i);
    left -= n;
  }
  return out;
}

double mean_kl(BackwardPass& pass, const TaughtText& text, std::span<const float> weights) {
  const std::vector<int64_t> offsets = offsets_of(text);
  double sum = 0;
  for (const std::vector<size_t>& batch : batches_of(text, kEvaluated)) {
    const int64_t n = offsets[batch.back() + 1] - offsets[batch.front()];
    sum += run_on(pass, text, offsets, batch, false, weights) * static_cast<double>(n);
  }
  return sum / static_cast<double>(offsets.back());
}

}  // namespace deltacome
