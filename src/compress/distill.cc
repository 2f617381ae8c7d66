// SPDX-License-Identifier: Apache-2.0
#include "compress/distill.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>
#include <numeric>
#include <random>

#include "core/check.h"

namespace deltacome {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMeasurements = 12;   // of the held-back text on the way
constexpr int64_t kLongestWarmUp = 20;  // steps

/// The sequences of a step: every epoch in another order.
class Schedule {
 public:
  Schedule(size_t n, uint64_t seed) : n_(n), random_(seed) {}
  /// Some sequences of at most n_tokens, or one.
  std::vector<size_t> next(const std::vector<int64_t>& offsets, int64_t n_tokens) {
    std::vector<size_t> out;
    while (out.size() < n_) {
      const size_t i = peek();
      n_tokens -= offsets[i + 1] - offsets[i];
      if (n_tokens < 0 && !out.empty()) break;
      out.push_back(i);
      ++at_;
    }
    return out;
  }

 private:
  size_t peek() {
    if (at_ == order_.size()) {
      order_.resize(n_);
      std::iota(order_.begin(), order_.end(), size_t{0});
      for (size_t i = n_; i > 1; --i) std::swap(order_[i - 1], order_[random_() % i]);
      at_ = 0;
    }
    return order_[at_];
  }

  size_t n_, at_ = 0;
  std::mt19937_64 random_;
  std::vector<size_t> order_;
};

void put(Backend& backend, Stream& stream, const std::vector<float>& from, const Tensor& to) {
  backend.upload(stream, std::as_bytes(std::span(from)), to);
}

std::vector<float> get(Backend& backend, Stream& stream, const Tensor& from) {
  std::vector<float> out(static_cast<size_t>(from.size()));
  backend.download(stream, from, std::as_writable_bytes(std::span(out)));
  return out;
}

/// Warm-up, then half a cosine to zero.
float schedule(int64_t step, int64_t steps) {
  const auto warm_up = static_cast<double>(std::clamp<int64_t>(steps / 10, 1, kLongestWarmUp));
  const double done = static_cast<double>(step) / static_cast<double>(steps);
  return static_cast<float>(std::min(1.0, static_cast<double>(step + 1) / warm_up) *
                            (0.5 + 0.5 * std::cos(std::numbers::pi * done)));
}

}  // namespace

void distill(DeltaWeights& weights, BackwardPass& pass, Backend& backend, Stream& stream,
             const TaughtText& training, const TaughtText& held_back, const DistillOptions& options,
             DistillState& state, const std::function<void(const DistillState&)>& save) {
  DELTACOME_CHECK(!training.sequences.empty() && !held_back.sequences.empty());
  const std::vector<float> held_back_weights = certainty_weights(held_back);
  const std::vector<float> training_weights = predicted_weights(training);
  const auto start = Clock::now();
  const auto n = static_cast<size_t>(weights.n_parameters());
  const double before = state.curve.empty() ? 0 : state.curve.back().seconds;
  const auto seconds = [&] {
    return before + std::chrono::duration<double>(Clock::now() - start).count();
  };
  const Tensor m = backend.allocate(DType::kF32, {static_cast<int64_t>(n)});
  const Tensor v = backend.allocate(DType::kF32, {static_cast<int64_t>(n)});
  if (state.curve.empty()) {
    state.first_moments.assign(n, 0);
    state.second_moments.assign(n, 0);
    state.best = state.values = get(backend, stream, weights.values());
    state.best_kl = mean_kl(pass, held_back, held_back_weights);
    state.curve.push_back({0, seconds(), state.best_kl, state.best_kl});
  }
  DELTACOME_CHECK(state.values.size() == n && state.first_moments.size() == n);
  put(backend, stream, state.values, weights.values());
  put(backend, stream, state.first_moments, m);
  put(backend, stream, state.second_moments, v);

  const std::vector<int64_t> offsets = offsets_of(training);
  Schedule order(training.sequences.size(), options.seed);
  const int64_t every = std::max<int64_t>(1, options.steps / kMeasurements);
  const int64_t n_norms = weights.n_norm_parameters();
  double saved = seconds(), training_sum = 0;
  int64_t summed = 0;
  for (int64_t step = 0; step < options.steps; ++step) {
    const std::vector<size_t> chosen = order.next(offsets, options.tokens_per_step);
    if (step < state.step) continue;  // done before
    const bool over = seconds() > options.limit_s;
    if (!over) {
      training_sum += run_on(pass, training, offsets, chosen, true, training_weights);
      ++summed;
      weights.finish_gradients();
      AdamStep adam{.rate = options.norm_rate * schedule(step, options.steps), .step = step + 1};
      const auto part = [&](const Tensor& all, bool of_norms) {
        return of_norms ? all.slice(0, n_norms) : all.slice(n_norms, all.size() - n_norms);
      };
      for (const bool of_norms : {true, false}) {
        if (!of_norms) adam.rate = options.rate * schedule(step, options.steps);
        backend.training().adam(stream, adam, part(weights.values(), of_norms),
                                part(weights.gradients(), of_norms), part(m, of_norms),
                                part(v, of_norms));
      }
      state.step = step + 1;
    }
    const bool last = over || step + 1 == options.steps;
    if (last || state.step % every == 0) {
      const double kl = mean_kl(pass, held_back, held_back_weights);
      state.curve.push_back({state.step, seconds(),
                             summed > 0 ? training_sum / static_cast<double>(summed) : kl, kl});
      training_sum = 0;
      summed = 0;
      if (kl < state.best_kl) {
        state.best_kl = kl;
        state.best = get(backend, stream, weights.values());
      }
      // Saved where it was measured, so that a resumed run has the same sums.
      if (save && (last || seconds() - saved >= options.save_every_s)) {
        state.values = get(backend, stream, weights.values());
        state.first_moments = get(backend, stream, m);
        state.second_moments = get(backend, stream, v);
        save(state);
        saved = seconds();
      }
    }
    if (last) break;
  }
  put(backend, stream, state.best, weights.values());
}

}  // namespace deltacome
