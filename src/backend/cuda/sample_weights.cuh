// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cuda/sample.h"
#include "backend/cuda/token_keys.cuh"

namespace deltacome::cuda {

/// Weights of a row's tokens, by the formulas of sampling.h, and their bins.
struct Weights {
  float largest;
  double by;  // 1 / temperature
  float bins_per_logit;

  static constexpr double kNats = 746;  // a weight that is as far from the largest is 0

  __device__ Weights(float largest_logit, float t)
      : largest(largest_logit),
        by(1 / static_cast<double>(t)),
        bins_per_logit(fminf(static_cast<float>(kSampleBins / kNats) / t, 3e38f)) {}

  __device__ double operator()(float logit) const {
    return exp((static_cast<double>(logit) - static_cast<double>(largest)) * by);
  }
  /// Rises as the logit falls, however its steps are rounded.
  __device__ int bin_of(float logit) const {
    const float at = (largest - logit) * bins_per_logit;
    return at < kSampleBins ? static_cast<int>(at) : kSampleBins - 1;
  }
  /// Whether all tokens of a bin have a weight above 0.
  __device__ static bool is_inside(int bin) { return bin < kSampleBins * 15 / 16; }
  /// Bits of a weight in its bin's unit: a block that sums kSlice of them in two halves of 20 bits
  /// stays below 2^32 in each.
  static constexpr int kBits = 38;
  /// What a bin's weights are times 2^this to be whole.
  __device__ static int shift_of(int bin) {
    const double nats = bin * (kNats / kSampleBins);
    return kBits + static_cast<int>(nats * 1.4426950408889634);
  }
  __device__ static uint64_t whole(double weight, int shift) {
    return static_cast<uint64_t>(llrint(weight * power(shift / 2) * power(shift - shift / 2)));
  }
  __device__ static double mass_of(uint64_t whole, int shift) {
    return static_cast<double>(whole) * power(-shift / 2) * power(shift / 2 - shift);
  }

 private:
  /// 2^e of a normal number; half of a shift always is one.
  __device__ static double power(int e) {
    return __longlong_as_double(static_cast<long long>(1023 + e) << 52);
  }
};

/// The key of a token as draws order it: -0 is 0.
__device__ inline uint64_t draw_key(float logit, int id) {
  return key_of(logit + 0.0f, id);
}

}  // namespace deltacome::cuda
