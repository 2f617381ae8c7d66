// SPDX-License-Identifier: Apache-2.0
#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "tests/support/expect_error.h"

namespace deltacome {
namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();

int32_t choose(std::vector<float> logits, const SamplingParams& params, double uniform = 0,
               const TokenHistory& history = TokenHistory(), std::vector<int32_t> banned = {}) {
  return choose_token(logits, params, history, banned, uniform);
}

/// The distribution by definition, written as vLLM's documentation says it: penalties, temperature,
/// min_p, top_k, top_p, each as a mask over probabilities that are made anew.
std::vector<double> reference(std::vector<double> logits, const SamplingParams& p,
                              const std::vector<int32_t>& prompt,
                              const std::vector<int32_t>& outputs) {
  const size_t n = logits.size();
  for (const auto& [token, bias] : p.logit_bias) logits[static_cast<size_t>(token)] += bias;
  for (size_t i = 0; i < n; ++i) {
    const auto id = static_cast<int32_t>(i);
    const auto count = std::ranges::count(outputs, id);
    if (count > 0 || std::ranges::count(prompt, id) > 0)
      logits[i] =
          logits[i] > 0 ? logits[i] / p.repetition_penalty : logits[i] * p.repetition_penalty;
    logits[i] -= p.frequency_penalty * static_cast<double>(count);
    if (count > 0) logits[i] -= p.presence_penalty;
    logits[i] /= p.temperature;
  }
  std::vector<bool> keep(n, true);
  const auto probabilities = [&] {
    std::vector<double> out(n, 0);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += out[i] = keep[i] ? std::exp(logits[i]) : 0;
    for (double& x : out) x /= sum;
    return out;
  };
  std::vector<double> now = probabilities();
  const double most = *std::ranges::max_element(now);
  for (size_t i = 0; i < n; ++i) keep[i] = now[i] >= p.min_p * most;
  now = probabilities();
  std::vector<size_t> order(n);
  for (size_t i = 0; i < n; ++i) order[i] = i;
  std::ranges::stable_sort(order, std::greater<>(), [&](size_t i) { return now[i]; });
  for (size_t i = 0; i < n; ++i)
    if (p.top_k > 0 && i >= static_cast<size_t>(p.top_k)) keep[order[i]] = false;
  now = probabilities();
  double mass = 0;
  for (const size_t i : order) {
    if (mass >= p.top_p) keep[i] = false;
    mass += now[i];
  }
  return probabilities();
}

TEST(AllowOnly, KeepsTheBitsOfTheMaskAndTheOthers) {
  for (const size_t n : {1u, 31u, 32u, 33u, 100u}) {
    std::vector<float> logits(n);
    for (size_t i = 0; i < n; ++i) logits[i] = static_cast<float>(i) - 3;
    const std::vector<float> before = logits;
    std::vector<uint32_t> mask((n + 31) / 32, 0xA5A5A5A5u);
    if (mask.size() > 2) mask.pop_back();  // of a tokenizer with fewer ids
    if (mask.size() > 1) mask[0] = ~0u;
    const std::vector<int32_t> others = {0, static_cast<int32_t>(n) - 1};
    allow_only(logits, mask, others);
    for (size_t i = 0; i < n; ++i) {
      const bool kept =
          i == 0 || i == n - 1 || (i / 32 < mask.size() && ((mask[i / 32] >> (i % 32)) & 1) != 0);
      EXPECT_EQ(logits[i], kept ? before[i] : -std::numeric_limits<float>::infinity())
          << n << ' ' << i;
    }
  }
}

TEST(Sampler, DrawsFromTheReferenceDistribution) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal(0, 2);
  constexpr int kDraws = 4000;
  for (int round = 0; round < 40; ++round) {
    std::vector<float> logits(17);
    for (float& x : logits) x = normal(rng);
    const std::vector<int32_t> prompt = {1, 2, 3}, outputs = {2, 4, 4, 4};
    SamplingParams p{.temperature = round % 2 == 0 ? 1.0 : 0.6};
    if (round % 3 == 0) p.top_k = 5;
    if (round % 4 == 0) p.top_p = 0.8;
    if (round % 5 == 0) p.min_p = 0.1;
    if (round % 2 == 1) p.repetition_penalty = 1.3;
    if (round % 3 == 1) p.presence_penalty = 0.5;
    if (round % 3 == 2) p.frequency_penalty = 0.7;
    if (round % 7 == 0) p.logit_bias = {{5, 2.0}, {6, -3.0}};
    TokenHistory history(prompt);
    for (const int32_t token : outputs) history.add_output(token);
    std::vector<double> got(logits.size(), 0);
    for (int i = 0; i < kDraws; ++i)
      got[static_cast<size_t>(choose(logits, p, (i + 0.5) / kDraws, history))] += 1.0 / kDraws;
    const std::vector<double> want =
        reference(std::vector<double>(logits.begin(), logits.end()), p, prompt, outputs);
    // Evenly spaced draws miss each share by at most one draw at either end.
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_NEAR(got[i], want[i], 2.0 / kDraws) << "round " << round << ", token " << i;
  }
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargestAfterPenalties) {
  EXPECT_EQ(choose({0, 3, 3, 1}, {.temperature = 0}), 1);
  TokenHistory history;
  history.add_output(1);
  EXPECT_EQ(choose({0, 3, 3, 1}, {.temperature = 0, .presence_penalty = 0.1}, 0, history), 2);
  EXPECT_EQ(choose({-1, -2}, {.temperature = 0, .repetition_penalty = 3}, 0, TokenHistory({{0}})),
            1);
}

TEST(Sampler, BannedTokensAndNanAreNeverChosen) {
  EXPECT_EQ(choose({9, 1, 0}, {.temperature = 0}, 0, TokenHistory(), {0}), 1);
  for (const double u : {0.0, 0.5, 0.999})
    EXPECT_EQ(choose({kNan, 1, kNan}, {.temperature = 1}, u), 1);
}

TEST(Sampler, LogprobsAreOfTheUnchangedDistribution) {
  const std::vector<float> logits = {std::log(1.f), std::log(4.f), std::log(2.f), std::log(1.f)};
  const Logprobs got = logprobs_of(logits, 3, 3);
  EXPECT_NEAR(got.chosen, std::log(1.0 / 8), 1e-6);
  EXPECT_EQ(got.rank, 3);  // equals share the first place
  EXPECT_EQ(logprobs_of(logits, 1, 0).rank, 1);
  ASSERT_EQ(got.top.size(), 3u);
  EXPECT_EQ(got.top[0].token, 1);
  EXPECT_EQ(got.top[1].token, 2);
  EXPECT_EQ(got.top[2].token, 0);  // of equals the first
  EXPECT_NEAR(got.top[0].logprob, std::log(0.5), 1e-6);
  EXPECT_TRUE(logprobs_of(logits, 0, 0).top.empty());
  EXPECT_EQ(logprobs_of(logits, 0, 9).top.size(), 4u);
}

TEST(Sampler, RefusesValuesOutOfRangeByName) {
  const auto refused = [](const SamplingParams& params, const char* name) {
    test::expect_error(ErrorCode::kInvalidArgument, name, [&] { check_sampling(params, 10); });
  };
  refused({.temperature = -1}, "temperature");
  refused({.temperature = std::nan("")}, "temperature");
  refused({.top_k = -1}, "top_k");
  refused({.top_p = 0}, "top_p");
  refused({.min_p = 1.5}, "min_p");
  refused({.repetition_penalty = 0}, "repetition_penalty");
  refused({.presence_penalty = 3}, "presence_penalty");
  refused({.frequency_penalty = -3}, "frequency_penalty");
  refused({.logit_bias = {{10, 1.0}}}, "logit_bias");
  check_sampling({}, 10);
}

TEST(Sampler, AnswersOfARequestHaveTheirOwnSeeds) {
  EXPECT_EQ(choice_seed(5, 0), 5u);
  EXPECT_NE(choice_seed(5, 1), choice_seed(5, 2));
}

}  // namespace
}  // namespace deltacome
