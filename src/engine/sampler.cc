// SPDX-License-Identifier: Apache-2.0
#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "backend/sampling.h"
#include "core/check.h"

namespace deltacome {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

void expect(bool holds, const char* name, double got, const char* expected) {
  if (holds) return;
  fail(ErrorCode::kInvalidArgument, "{} is {}, expected {}", name, got, expected);
}

}  // namespace

void check_sampling(const SamplingParams& p, int64_t vocab_size) {
  const auto finite = [](double x) { return std::isfinite(x); };
  expect(finite(p.temperature) && p.temperature >= 0, "temperature", p.temperature, "0 or more");
  expect(p.top_k >= 0, "top_k", p.top_k, "0 (off) or more");
  expect(p.top_p > 0 && p.top_p <= 1, "top_p", p.top_p, "more than 0 and at most 1");
  expect(p.min_p >= 0 && p.min_p <= 1, "min_p", p.min_p, "0 to 1");
  expect(finite(p.repetition_penalty) && p.repetition_penalty > 0, "repetition_penalty",
         p.repetition_penalty, "more than 0");
  expect(p.presence_penalty >= -2 && p.presence_penalty <= 2, "presence_penalty",
         p.presence_penalty, "-2 to 2");
  expect(p.frequency_penalty >= -2 && p.frequency_penalty <= 2, "frequency_penalty",
         p.frequency_penalty, "-2 to 2");
  for (const auto& [token, bias] : p.logit_bias) {
    if (token < 0 || token >= vocab_size) {
      fail(ErrorCode::kInvalidArgument,
           "logit_bias names token {}, expected an id of the vocabulary of {}", token, vocab_size);
    }
    expect(!std::isnan(bias), "logit_bias", bias, "a number");
  }
}

TokenHistory::TokenHistory(std::span<const int32_t> prompt) {
  for (const int32_t token : prompt) seen_[token] = true;
}

void TokenHistory::add_output(int32_t token) {
  ++outputs_[token];
  seen_[token] = true;
}

void TokenHistory::penalize(const SamplingParams& params, std::span<float> logits) const {
  const auto at = [&](int32_t token) -> float& { return logits[static_cast<size_t>(token)]; };
  if (params.repetition_penalty != 1) {
    const auto penalty = static_cast<float>(params.repetition_penalty);
    for (const auto& [token, _] : seen_) {
      float& logit = at(token);
      logit = logit > 0 ? logit / penalty : logit * penalty;
    }
  }
  if (params.presence_penalty == 0 && params.frequency_penalty == 0) return;
  for (const auto& [token, count] : outputs_) {
    at(token) -= static_cast<float>(params.frequency_penalty * static_cast<double>(count) +
                                    params.presence_penalty);
  }
}

bool is_plain(const SamplingParams& params) noexcept {
  return params.repetition_penalty == 1 && params.presence_penalty == 0 &&
         params.frequency_penalty == 0 && params.logit_bias.empty() && params.min_p == 0;
}

void allow_only(std::span<float> logits, std::span<const uint32_t> mask,
                std::span<const int32_t> others) {
  std::vector<float> kept;
  for (const int32_t token : others) kept.push_back(logits[static_cast<size_t>(token)]);
  // By the bits that are rarer in a word: nearly all are set within a string, nearly none
  // elsewhere.
  for (size_t i = 0; i < logits.size(); i += 32) {
    const auto row = logits.subspan(i, std::min<size_t>(32, logits.size() - i));
    const uint32_t valid = row.size() == 32 ? ~0u : (1u << row.size()) - 1;
    const uint32_t word = i / 32 < mask.size() ? mask[i / 32] & valid : 0;
    if (std::popcount(word) > 16) {
      for (uint32_t bits = ~word & valid; bits != 0; bits &= bits - 1)
        row[static_cast<size_t>(std::countr_zero(bits))] = kNever;
      continue;
    }
    if (word == 0) {
      std::ranges::fill(row, kNever);
      continue;
    }
    std::array<float, 32> allowed;
    allowed.fill(kNever);
    for (uint32_t bits = word; bits != 0; bits &= bits - 1) {
      const auto at = static_cast<size_t>(std::countr_zero(bits));
      allowed[at] = row[at];
    }
    std::copy_n(allowed.begin(), row.size(), row.begin());
  }
  for (size_t i = 0; i < others.size(); ++i) logits[static_cast<size_t>(others[i])] = kept[i];
}

int32_t choose_token(std::span<float> logits, const SamplingParams& params,
                     const TokenHistory& history, std::span<const int32_t> banned, double uniform) {
  for (const int32_t token : banned) logits[static_cast<size_t>(token)] = kNever;
  for (const auto& [token, bias] : params.logit_bias)
    logits[static_cast<size_t>(token)] += static_cast<float>(bias);
  history.penalize(params, logits);
  const int32_t greedy = first_largest(logits);
  // All probability on one token, or none anywhere (all -inf or NaN).
  if (params.temperature <= 0 || !std::isfinite(logits[static_cast<size_t>(greedy)])) return greedy;
  // The largest has weight 1, so min_p is a bound on the weight.
  std::vector<Candidate> candidates =
      candidates_of(logits, params.temperature, params.min_p, params.top_k);
  keep_top_p(candidates, params.top_p);
  return draw_from(candidates, uniform);
}

Logprobs logprobs_of(std::span<const float> logits, int32_t token, int n) {
  const auto largest = static_cast<double>(logits[static_cast<size_t>(first_largest(logits))]);
  double sum = 0;
  for (const float logit : logits) {
    const double weight = std::exp(static_cast<double>(logit) - largest);
    if (weight > 0) sum += weight;  // false for NaN
  }
  const double log_sum = largest + std::log(sum);
  const auto logprob = [&](int32_t id) {
    return static_cast<double>(logits[static_cast<size_t>(id)]) - log_sum;
  };
  const float own = logits[static_cast<size_t>(token)];
  Logprobs out{.chosen = logprob(token),
               .rank = 1 + std::ranges::count_if(logits, [&](float logit) { return logit > own; }),
               .top = {}};
  std::vector<int32_t> ids;
  for (size_t i = 0; n > 0 && i < logits.size(); ++i) {
    if (!std::isnan(logits[i])) ids.push_back(static_cast<int32_t>(i));
  }
  const auto count = std::min(static_cast<std::ptrdiff_t>(std::max(n, 0)),
                              static_cast<std::ptrdiff_t>(ids.size()));
  std::ranges::partial_sort(ids, ids.begin() + count, [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    out.top.push_back({id, logprob(id)});
  }
  return out;
}

uint64_t choice_seed(uint64_t seed, int choice) noexcept {
  return choice == 0 ? seed : seed ^ (static_cast<uint64_t>(choice) * 0xd1342543de82ef95ull);
}

}  // namespace deltacome
