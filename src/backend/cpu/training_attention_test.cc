// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/training_attention.h"

#include <numeric>

#include "backend/cpu/training_test_support.h"

namespace deltacome::cpu {
namespace {

using namespace testing;

/// Attention of the definition, one query and one head at a time, and the bounds of its results.
struct Reference {
  AttentionShape shape;
  std::vector<int64_t> lengths;

  int64_t q_at(int64_t row, int64_t h) const { return (row * shape.n_heads + h) * shape.head_dim; }
  int64_t kv_at(int64_t row, int64_t h) const {
    return (row * shape.n_kv_heads + h / (shape.n_heads / shape.n_kv_heads)) * shape.head_dim;
  }
  double product(const Doubles& a, int64_t at_a, const Doubles& b, int64_t at_b,
                 bool absolute = false) const {
    double sum = 0;
    for (int64_t d = 0; d < shape.head_dim; ++d) {
      const double term = a[static_cast<size_t>(at_a + d)] * b[static_cast<size_t>(at_b + d)];
      sum += absolute ? std::abs(term) : term;
    }
    return sum;
  }
  /// Calls body(row, head, first, p, error): the probabilities p of keys first, first + 1, ... and
  /// the relative error that f32 may have in each.
  template <class Body>
  void for_queries(const Doubles& q, const Doubles& k, const Body& body) const {
    const double scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
    int64_t start = 0;
    for (const int64_t length : lengths) {
      for (int64_t i = 0; i < length; ++i) {
        const int64_t row = start + i;
        const int64_t first =
            start + (shape.window == 0 ? 0 : std::max<int64_t>(0, i - shape.window + 1));
        for (int64_t h = 0; h < shape.n_heads; ++h) {
          Doubles p;
          double largest = -INFINITY, magnitude = 0, sum = 0;
          for (int64_t key = first; key <= row; ++key) {
            p.push_back(product(q, q_at(row, h), k, kv_at(key, h)) * scale);
            largest = std::max(largest, p.back());
            magnitude =
                std::max(magnitude, product(q, q_at(row, h), k, kv_at(key, h), true) * scale);
          }
          for (double& s : p) sum += s = std::exp(s - largest);
          for (double& s : p) s /= sum;
          // A score's error moves exp by as much, in numerator and sum; the scores' difference is
          // rounded too, and 4e-6 is exp's own (kernels_test.cc).
          const double error = 2 * (gamma_k(shape.head_dim + 4) * magnitude + 4e-6) +
                               gamma_k(static_cast<int64_t>(p.size()) + 4);
          body(row, h, first, p, error);
        }
      }
      start += length;
    }
  }
  struct Result {
    Doubles want, bound;
    explicit Result(size_t n) : want(n), bound(n) {}
    void add(int64_t at, double value, double error) {
      want[static_cast<size_t>(at)] += value;
      bound[static_cast<size_t>(at)] += error;
    }
  };
  Result forward(const Doubles& q, const Doubles& k, const Doubles& v) const {
    Result out(q.size());
    for_queries(q, k, [&](int64_t row, int64_t h, int64_t first, const Doubles& p, double error) {
      for (size_t j = 0; j < p.size(); ++j) {
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          const double term =
              p[j] * v[static_cast<size_t>(kv_at(first + static_cast<int64_t>(j), h) + d)];
          out.add(q_at(row, h) + d, term,
                  std::abs(term) * (error + gamma_k(static_cast<int64_t>(p.size()) + 2)));
        }
      }
    });
    return out;
  }
  struct Gradients {
    Result q, k, v;
  };
  Gradients backward(const Doubles& q, const Doubles& k, const Doubles& v,
                     const Doubles& d_out) const {
    Gradients g{Result(q.size()), Result(k.size()), Result(v.size())};
    const double scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
    // Terms of the longest sum: all queries of all heads of a kv head.
    const double sums =
        gamma_k(std::accumulate(lengths.begin(), lengths.end(), int64_t{0}) * shape.n_heads + 8);
    for_queries(q, k, [&](int64_t row, int64_t h, int64_t first, const Doubles& p, double error) {
      const int64_t at_q = q_at(row, h);
      double mean = 0, mean_size = 0;
      Doubles dp, dp_size;
      for (size_t j = 0; j < p.size(); ++j) {
        const int64_t at = kv_at(first + static_cast<int64_t>(j), h);
        dp.push_back(product(d_out, at_q, v, at));
        dp_size.push_back(product(d_out, at_q, v, at, true));
        mean += p[j] * dp[j];
        mean_size += p[j] * dp_size[j];
      }
      for (size_t j = 0; j < p.size(); ++j) {
        const int64_t at = kv_at(first + static_cast<int64_t>(j), h);
        const double ds = p[j] * (dp[j] - mean) * scale;
        // Twice the error of p: of this one, and of those in the mean.
        const double ds_error = p[j] * (dp_size[j] + mean_size) * scale *
                                (2 * error + gamma_k(shape.head_dim + 8) + sums);
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          const double of_q = q[static_cast<size_t>(at_q + d)],
                       of_k = k[static_cast<size_t>(at + d)],
                       of_out = d_out[static_cast<size_t>(at_q + d)];
          g.q.add(at_q + d, ds * of_k, std::abs(of_k) * (ds_error + std::abs(ds) * sums));
          g.k.add(at + d, ds * of_q, std::abs(of_q) * (ds_error + std::abs(ds) * sums));
          g.v.add(at + d, p[j] * of_out, std::abs(p[j] * of_out) * (error + sums));
        }
      }
    });
    return g;
  }
};

class TrainingAttentionTest : public TrainingTest {
 protected:
  /// Forward and backward against the reference; against differences too if `differ`.
  void check(const AttentionShape& shape, const std::vector<int64_t>& lengths, bool differ) {
    const int64_t n = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    const int64_t q_width = shape.n_heads * shape.head_dim,
                  kv_width = shape.n_kv_heads * shape.head_dim;
    const std::vector<float> q = floats(n * q_width), k = floats(n * kv_width),
                             v = floats(n * kv_width), d_out = floats(n * q_width);
    const Tensor tq = put({n, q_width}, q), tk = put({n, kv_width}, k), tv = put({n, kv_width}, v);
    Guarded out(backend_, n, q_width), dq(backend_, n, q_width), dk(backend_, n, kv_width),
        dv(backend_, n, kv_width);
    ops_.attention(*stream_, lengths, shape, tq, tk, tv, out.tensor());
    ops_.attention_backward(*stream_, lengths, shape, tq, tk, tv, put({n, q_width}, d_out),
                            dq.tensor(), dk.tensor(), dv.tensor());
    const Reference reference{shape, lengths};
    const Doubles q64 = doubles(q), k64 = doubles(k), v64 = doubles(v), d64 = doubles(d_out);
    const Reference::Result want = reference.forward(q64, k64, v64);
    EXPECT_TRUE(within(values(out), want.want, want.bound));
    const Reference::Gradients g = reference.backward(q64, k64, v64, d64);
    EXPECT_TRUE(within(values(dq), g.q.want, g.q.bound));
    EXPECT_TRUE(within(values(dk), g.k.want, g.k.bound));
    EXPECT_TRUE(within(values(dv), g.v.want, g.v.bound));
    EXPECT_TRUE(out.intact() && dq.intact() && dk.intact() && dv.intact());
    if (!differ) return;
    const auto loss = [&](const Doubles& a, const Doubles& b, const Doubles& c) {
      return dot(reference.forward(a, b, c).want, d64);
    };
    EXPECT_TRUE(near_differences(
        values(dq), differences([&](const Doubles& x) { return loss(x, k64, v64); }, q64)));
    EXPECT_TRUE(near_differences(
        values(dk), differences([&](const Doubles& x) { return loss(q64, x, v64); }, k64)));
    EXPECT_TRUE(near_differences(
        values(dv), differences([&](const Doubles& x) { return loss(q64, k64, x); }, v64)));
  }
};
DELTACOME_FOR_EACH_ISA(TrainingAttentionTest);

TEST_P(TrainingAttentionTest, SmallSequencesAgreeWithReferenceAndDifferences) {
  check({.n_heads = 1, .n_kv_heads = 1, .head_dim = 1}, {1}, true);
  check({.n_heads = 1, .n_kv_heads = 1, .head_dim = 3}, {2}, true);
  check({.n_heads = 4, .n_kv_heads = 2, .head_dim = 5}, {7, 1, 5}, true);
  check({.n_heads = 6, .n_kv_heads = 2, .head_dim = 3, .window = 3}, {1, 7, 2, 0, 5}, true);
  check({.n_heads = 3, .n_kv_heads = 1, .head_dim = 2, .window = 1}, {5, 3}, true);
  check({.n_heads = 2, .n_kv_heads = 2, .head_dim = 7, .window = 100}, {17}, true);
}

TEST_P(TrainingAttentionTest, SequencesOfSeveralBlocksAgreeWithTheReference) {
  check({.n_heads = 4, .n_kv_heads = 2, .head_dim = 16}, {193, 1, 300, 128}, false);
  check({.n_heads = 3, .n_kv_heads = 1, .head_dim = 17, .window = 5}, {193, 129}, false);
  check({.n_heads = 2, .n_kv_heads = 1, .head_dim = 7, .window = 150}, {400}, false);
  check({.n_heads = 2, .n_kv_heads = 2, .head_dim = 64, .window = 128}, {257, 17}, false);
}

TEST_P(TrainingAttentionTest, UnseenKeysAreNeverTouched) {
  // The second sequence and everything outside of the window could be NaN: nothing is multiplied
  // by 0 that a query's own sequence does not hold.
  const AttentionShape shape{.n_heads = 2, .n_kv_heads = 1, .head_dim = 4};
  const std::vector<int64_t> lengths{3, 2};
  std::vector<float> q = floats(5 * 8), k = floats(5 * 4), v = floats(5 * 4);
  std::fill(k.begin() + 3 * 4, k.end(), NAN);
  Guarded out(backend_, 5, 8);
  ops_.attention(*stream_, lengths, shape, put({5, 8}, q), put({5, 4}, k), put({5, 4}, v),
                 out.tensor());
  for (int64_t i = 0; i < 3 * 8; ++i) EXPECT_TRUE(std::isfinite(out.at(i / 8, i % 8)));
}

TEST_P(TrainingAttentionTest, EveryRunGivesTheSameBits) {
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16};
  const std::vector<int64_t> lengths{130, 40, 77};
  const int64_t n = 247;
  const Tensor q = put({n, 64}, floats(n * 64)), k = put({n, 32}, floats(n * 32)),
               v = put({n, 32}, floats(n * 32)), d_out = put({n, 64}, floats(n * 64));
  std::vector<std::vector<float>> first;
  for (int run = 0; run < 5; ++run) {
    Guarded out(backend_, n, 64), dq(backend_, n, 64), dk(backend_, n, 32), dv(backend_, n, 32);
    ops_.attention(*stream_, lengths, shape, q, k, v, out.tensor());
    ops_.attention_backward(*stream_, lengths, shape, q, k, v, d_out, dq.tensor(), dk.tensor(),
                            dv.tensor());
    const std::vector<std::vector<float>> got{values(out), values(dq), values(dk), values(dv)};
    if (run == 0) first = got;
    EXPECT_EQ(got, first);
  }
}

}  // namespace
}  // namespace deltacome::cpu
