// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/training_loss.h"

#include <numeric>

#include "backend/cpu/training_test_support.h"

namespace deltacome::cpu {
namespace {

using namespace testing;

/// KL of the definition for one row; see TrainingOps.
double kl(const Doubles& z, const std::vector<int32_t>& ids, const Doubles& p) {
  const double largest = *std::ranges::max_element(z);
  double sum = 0, rest = 0, loss = 0, rest_p = 1;
  for (size_t j = 0; j < z.size(); ++j) {
    const double e = std::exp(z[j] - largest);
    sum += e;
    if (std::ranges::find(ids, static_cast<int32_t>(j)) == ids.end()) rest += e;
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    const double log_q = z[static_cast<size_t>(ids[i])] - largest - std::log(sum);
    loss += p[i] * (std::log(p[i]) - log_q);
    rest_p -= p[i];
  }
  if (ids.size() < z.size() && rest_p > 0) loss += rest_p * std::log(rest_p / (rest / sum));
  return loss;
}

class TrainingLossTest : public TrainingTest {
 protected:
  struct Rows {
    std::vector<float> logits;  // [n, width]
    std::vector<int32_t> ids;   // [n, k]
    std::vector<float> log_p;   // [n, k]
  };
  Rows make(int64_t n, int64_t width, int64_t n_vocab, int64_t k) {
    Rows rows{floats(n * width, 3), {}, {}};
    for (int64_t r = 0; r < n; ++r) {
      std::vector<float> teacher = floats(n_vocab, 2);
      double sum = 0;
      for (const float z : teacher) sum += std::exp(static_cast<double>(z));
      std::vector<int32_t> order(static_cast<size_t>(n_vocab));
      std::iota(order.begin(), order.end(), 0);
      std::ranges::sort(order, [&](int32_t a, int32_t b) {
        return teacher[static_cast<size_t>(a)] > teacher[static_cast<size_t>(b)];
      });
      for (int64_t i = 0; i < k; ++i) {
        const int32_t id = order[static_cast<size_t>(i)];
        rows.ids.push_back(id);
        rows.log_p.push_back(static_cast<float>(
            static_cast<double>(teacher[static_cast<size_t>(id)]) - std::log(sum)));
      }
    }
    return rows;
  }
  Tensor put_ids(int64_t n, int64_t k, const std::vector<int32_t>& ids) {
    const Tensor t = backend_.allocate(DType::kI32, {n, k});
    backend_.upload(*stream_, std::as_bytes(std::span(ids)), t);
    return t;
  }
};
DELTACOME_FOR_EACH_ISA(TrainingLossTest);

TEST_P(TrainingLossTest, LossAndGradientAgreeWithDoubleAndDifferences) {
  for (const int64_t n_vocab : {1, 2, 3, 5, 7, 17, 193, 4099}) {
    for (const int64_t k : {int64_t{1}, std::min<int64_t>(n_vocab, 5), n_vocab}) {
      const int64_t n = n_vocab > 1000 ? 2 : 3, width = n_vocab + 3;
      std::vector<float> weights(static_cast<size_t>(n));
      for (size_t i = 0; i < weights.size(); ++i) weights[i] = 0.25f * static_cast<float>(i + 1);
      const Rows rows = make(n, width, n_vocab, k);
      Guarded logits = guarded(n, width, rows.logits);
      const double loss =
          ops_.kl_gradient(*stream_, logits.tensor(), n_vocab, put_ids(n, k, rows.ids),
                           put({n, k}, rows.log_p), put({n}, weights));
      double want_loss = 0, weight_sum = 0;
      Doubles want, bound, differs;
      for (int64_t r = 0; r < n; ++r) {
        const Doubles z(rows.logits.begin() + r * width, rows.logits.begin() + r * width + n_vocab);
        const std::vector<int32_t> ids(rows.ids.begin() + r * k, rows.ids.begin() + (r + 1) * k);
        Doubles p;
        double p_sum = 0, sum = 0, rest = 0;
        for (int64_t i = 0; i < k; ++i) {
          p.push_back(std::exp(static_cast<double>(rows.log_p[static_cast<size_t>(r * k + i)])));
          p_sum += p.back();
        }
        if (k == n_vocab)
          for (double& v : p) v /= p_sum;
        const auto weight = static_cast<double>(weights[static_cast<size_t>(r)]);
        want_loss += weight * kl(z, ids, p);
        weight_sum += weight;
        for (size_t j = 0; j < z.size(); ++j) {
          sum += std::exp(z[j]);
          if (std::ranges::find(ids, static_cast<int32_t>(j)) == ids.end()) rest += std::exp(z[j]);
        }
        double row_sum = 0, row_size = 0;
        for (int64_t j = 0; j < width; ++j) {
          const auto at = static_cast<size_t>(j);
          double g = 0, size = 0;
          if (j < n_vocab) {
            const auto found = std::ranges::find(ids, static_cast<int32_t>(j));
            const double target = found != ids.end() ? p[static_cast<size_t>(found - ids.begin())]
                                                     : (1 - p_sum) * std::exp(z[at]) / rest;
            g = weight * (std::exp(z[at]) / sum - target);
            size = weight * (std::exp(z[at]) / sum + target);
          }
          want.push_back(g);
          // exp and its sum (kernels_test.cc), in pieces of 512 / lanes terms, and two roundings.
          bound.push_back((8e-6 + gamma_k(512 / 4 + 4)) * size);
          const auto got = static_cast<double>(logits.at(r, j));
          row_sum += got;
          row_size += size;
          if (j >= n_vocab) {
            EXPECT_EQ(got, 0);
          }
        }
        EXPECT_NEAR(row_sum, 0, (8e-6 + gamma_k(512 / 4 + 4)) * row_size);
        if (n_vocab <= 193) {
          Doubles d = differences([&](const Doubles& x) { return weight * kl(x, ids, p); }, z);
          d.resize(static_cast<size_t>(width));
          differs.insert(differs.end(), d.begin(), d.end());
        }
      }
      EXPECT_TRUE(within(values(logits), want, bound)) << n_vocab << " " << k;
      if (!differs.empty()) {
        EXPECT_TRUE(near_differences(values(logits), differs)) << n_vocab << " " << k;
      }
      EXPECT_GE(loss, 0);
      // The logarithm of a sum with that relative error, per row.
      EXPECT_NEAR(loss, want_loss, (8e-6 + gamma_k(512 / 4 + 4)) * weight_sum)
          << n_vocab << " " << k;
      EXPECT_TRUE(logits.intact());
    }
  }
}

TEST_P(TrainingLossTest, EqualDistributionsGiveNothing) {
  const int64_t n_vocab = 37, k = 9;
  Rows rows = make(1, n_vocab, n_vocab, k);
  double sum = 0;
  for (const float z : rows.logits) sum += std::exp(static_cast<double>(z));
  for (size_t i = 0; i < rows.ids.size(); ++i) {
    rows.log_p[i] = static_cast<float>(
        static_cast<double>(rows.logits[static_cast<size_t>(rows.ids[i])]) - std::log(sum));
  }
  Guarded logits = guarded(1, n_vocab, rows.logits);
  const double loss = ops_.kl_gradient(*stream_, logits.tensor(), n_vocab, put_ids(1, k, rows.ids),
                                       put({1, k}, rows.log_p), put({1}, {1}));
  EXPECT_GE(loss, 0);
  EXPECT_LT(loss, 1e-9);  // second order in the rounding of log_p
  EXPECT_TRUE(within(values(logits), Doubles(static_cast<size_t>(n_vocab)), 2e-6));
}

TEST_P(TrainingLossTest, VanishingMassesStayFinite) {
  // A certain teacher (p = 1, nothing is left), one whose rounding exceeds 1, one that never gives
  // a token, and a student that gives the rest e^-300.
  const int64_t n_vocab = 21;
  const std::vector<std::vector<float>> log_p{
      {0, -INFINITY}, {1e-6f, -30}, {-1, -INFINITY}, {-0.7f, -0.8f}};
  for (const float top : {0.0f, 300.0f, -300.0f}) {
    for (const std::vector<float>& lp : log_p) {
      std::vector<float> z = floats(n_vocab);
      z[4] += top;
      z[9] += top;
      Guarded logits = guarded(1, n_vocab, z);
      const double loss = ops_.kl_gradient(*stream_, logits.tensor(), n_vocab,
                                           put_ids(1, 2, {4, 9}), put({1, 2}, lp), put({1}, {1}));
      EXPECT_TRUE(std::isfinite(loss)) << top;
      EXPECT_GE(loss, 0);
      double sum = 0;
      for (const float g : values(logits)) {
        EXPECT_TRUE(std::isfinite(g)) << top;
        sum += static_cast<double>(g);
      }
      EXPECT_NEAR(sum, 0, 1e-5);
      EXPECT_TRUE(logits.intact());
    }
  }
}

TEST_P(TrainingLossTest, NoRowsIsNoLoss) {
  EXPECT_EQ(
      ops_.kl_gradient(*stream_, backend_.allocate(DType::kF32, {0, 5}), 5, put_ids(0, 2, {}),
                       backend_.allocate(DType::kF32, {0, 2}), backend_.allocate(DType::kF32, {0})),
      0);
}

}  // namespace
}  // namespace deltacome::cpu
