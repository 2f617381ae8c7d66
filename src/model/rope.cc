// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <cmath>
#include <numbers>

namespace deltacome {
namespace {

double scaled_llama3(const RopeConfig& rope, double frequency) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double turns = rope.original_max_positions / wavelength;  // within the original context
  if (turns > rope.high_freq_factor) return frequency;
  if (turns < rope.low_freq_factor) return frequency / rope.factor;
  const double blend =
      (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - blend) * frequency / rope.factor + blend * frequency;
}

}  // namespace

std::vector<float> rope_frequencies(const RopeConfig& rope, int64_t head_dim) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    double f = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    switch (rope.type) {
      case RopeType::kDefault:
        break;
      case RopeType::kLinear:
        f /= rope.factor;
        break;
      case RopeType::kLlama3:
        f = scaled_llama3(rope, f);
        break;
    }
    frequencies.push_back(static_cast<float>(f));
  }
  return frequencies;
}

}  // namespace deltacome
