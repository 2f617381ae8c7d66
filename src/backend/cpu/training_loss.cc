// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/training_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_memory.h"

namespace deltacome::cpu {
namespace {

constexpr int64_t kSumPiece = 512;  // exponentials summed in f32 before they are added in f64
constexpr double kNone = -std::numeric_limits<double>::infinity();

/// The teacher's and the student's largest tokens of one row; all in the order of ids.
struct Top {
  explicit Top(int64_t k) : z(static_cast<size_t>(k)), p(z.size()) {}
  std::vector<double> z;  // logits, then unnormalized probabilities
  std::vector<double> p;
};

/// One row. The tokens outside of the k are summed on their own, relative to their own largest, so
/// that neither their mass nor its logarithm suffers from cancellation or underflow.
double kl_row(const Kernels& kernels, std::span<float> logits, std::span<const int32_t> ids,
              std::span<const float> log_p, float weight, Top& top) {
  const auto n_vocab = static_cast<int64_t>(logits.size());
  const size_t k = ids.size();
  double largest = kNone, p_sum = 0;
  for (size_t i = 0; i < k; ++i) {
    DELTACOME_CHECK(ids[i] >= 0 && ids[i] < n_vocab);
    float& z = logits[static_cast<size_t>(ids[i])];
    top.z[i] = static_cast<double>(z);
    z = -std::numeric_limits<float>::infinity();
    largest = std::max(largest, top.z[i]);
    top.p[i] = std::exp(static_cast<double>(log_p[i]));
    p_sum += top.p[i];
  }
  const bool has_rest = static_cast<int64_t>(k) < n_vocab;
  double rest_largest = kNone, rest_sum = 0;
  if (has_rest) {
    const float shift = kernels.max(logits.data(), n_vocab);
    for (int64_t at = 0; at < n_vocab; at += kSumPiece) {
      rest_sum += static_cast<double>(
          kernels.exp_sum(logits.data() + at, std::min(kSumPiece, n_vocab - at), shift));
    }
    rest_largest = static_cast<double>(shift);
    largest = std::max(largest, rest_largest);
  }
  double sum = has_rest ? rest_sum * std::exp(rest_largest - largest) : 0;
  for (const double z : top.z) sum += std::exp(z - largest);
  const double log_sum = largest + std::log(sum);

  const double rest_p = has_rest ? std::max(0.0, 1 - p_sum) : 0;
  const double normalize = rest_p > 0 ? 1 : 1 / p_sum;
  double loss = 0;
  if (rest_p > 0)
    loss += rest_p * (std::log(rest_p) - (rest_largest + std::log(rest_sum) - log_sum));
  if (has_rest) {
    // q_j - t q_j / q_t, both as multiples of exp(z_j - rest_largest)
    const double by = std::exp(rest_largest - log_sum) - rest_p / rest_sum;
    const auto scaled = static_cast<float>(by * static_cast<double>(weight));
    for (float& z : logits) z *= scaled;
  }
  for (size_t i = 0; i < k; ++i) {
    const double log_q = top.z[i] - log_sum;
    const double p = top.p[i] * normalize;
    if (p > 0) loss += p * (std::log(p) - log_q);
    logits[static_cast<size_t>(ids[i])] =
        static_cast<float>(static_cast<double>(weight) * (std::exp(log_q) - p));
  }
  return std::max(loss, 0.0);  // it can be below by rounding only
}

}  // namespace

double kl_gradient(const Runtime& runtime, const Tensor& logits, int64_t n_vocab, const Tensor& ids,
                   const Tensor& log_p, const Tensor& weights) {
  const int64_t n = logits.rows(), width = logits.cols();
  if (n == 0) return 0;
  const int64_t k = ids.cols();
  DELTACOME_CHECK(n_vocab > 0 && n_vocab <= width && k > 0 && k <= n_vocab);
  DELTACOME_CHECK(ids.dtype == DType::kI32 && ids.rows() == n);
  DELTACOME_CHECK(log_p.rows() == n && log_p.cols() == k && weights.size() == n);
  std::vector<double> losses(static_cast<size_t>(n));
  const auto* all_ids = reinterpret_cast<const int32_t*>(bytes_of(ids));
  runtime.pool.parallel_for(
      n, grain_of(ceil_div(n, 8), n * n_vocab) * 8, [&](int64_t begin, int64_t end) {
        Top top(k);
        for (int64_t r = begin; r < end; ++r) {
          float* row = f32(logits) + r * width;
          losses[static_cast<size_t>(r)] =
              kl_row(runtime.kernels, {row, static_cast<size_t>(n_vocab)},
                     {all_ids + r * k, static_cast<size_t>(k)},
                     {f32(log_p) + r * k, static_cast<size_t>(k)}, f32(weights)[r], top);
          std::fill(row + n_vocab, row + width, 0.0f);
        }
      });
  double loss = 0;
  for (int64_t r = 0; r < n; ++r)
    loss += static_cast<double>(f32(weights)[r]) * losses[static_cast<size_t>(r)];
  return loss;
}

}  // namespace deltacome::cpu
