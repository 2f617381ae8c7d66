// SPDX-License-Identifier: Apache-2.0
#include "backend/training_ops.h"

#include <functional>

#include "backend/cuda/test_support.h"

namespace deltacome::cuda {
namespace {

using namespace testing;

using Floats = std::vector<float>;

constexpr double kU = 0x1p-24;
// An operand rounded, or cut, to 10 bits of mantissa, twice in a product.
constexpr double kTf32Product = 2 * 0x1p-10 + 0x1p-20;

class TrainingTest : public CudaTest {
 protected:
  Floats floats(int64_t n, float scale = 1) { return random_floats(rng_, n, scale); }

  /// What `body` leaves in an output that held `before`, on the GPU (guarded) and on the CPU.
  using Body = std::function<void(Device&, TrainingOps&, const Tensor&)>;
  Floats on_gpu(int64_t rows, int64_t cols, const Floats& before, const Body& body) {
    const Guarded out(gpu(), rows, cols);
    gpu().backend->upload(*gpu().stream, std::as_bytes(std::span(before)), out.tensor());
    body(gpu(), gpu().backend->training(), out.tensor());
    return out.get();
  }
  Floats on_cpu(int64_t rows, int64_t cols, const Floats& before, const Body& body) {
    const Tensor out = cpu_.put({rows, cols}, before);
    body(cpu_, cpu_.backend->training(), out);
    return cpu_.get(out);
  }
  static Floats zeros(int64_t n) { return Floats(static_cast<size_t>(n), 0); }
  static std::vector<double> times(double by, const Floats& magnitudes) {
    std::vector<double> out;
    for (const float m : magnitudes) out.push_back(by * static_cast<double>(m) + 1e-37);
    return out;
  }
};

TEST_F(TrainingTest, MatmulIsWithinTheBoundOfTf32ForAllTransposes) {
  for (const auto& [m, k, n] : {std::array<int64_t, 3>{1, 1, 1},
                                {3, 7, 5},
                                {17, 193, 2},
                                {130, 64, 66},
                                {512, 1000, 333},
                                {1, 4096, 11}}) {
    const Floats a = floats(m * k), b = floats(k * n), before = floats(m * n);
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        for (const float beta : {0.0f, 1.0f}) {
          const auto body = [&](const Floats& x, const Floats& y) {
            return [&, x, y](Device& d, TrainingOps& ops, const Tensor& out) {
              ops.matmul(*d.stream, d.put(ta ? Shape{k, m} : Shape{m, k}, x), ta,
                         d.put(tb ? Shape{n, k} : Shape{k, n}, y), tb, beta, out);
            };
          };
          const Floats size = on_cpu(m, n, magnitudes(before), body(magnitudes(a), magnitudes(b)));
          expect_close(on_gpu(m, n, before, body(a, b)), on_cpu(m, n, before, body(a, b)),
                       times(kTf32Product + 3 * gamma_k(k + 2), size),
                       fmt::format("{} x {} x {} {}{}", m, k, n, ta, tb));
        }
      }
    }
  }
}

TEST_F(TrainingTest, MatmulReplacesWhateverWasThereIfBetaIs0) {
  const Floats got =
      on_gpu(1, 2, {NAN, INFINITY}, [](Device& d, TrainingOps& ops, const Tensor& c) {
        ops.matmul(*d.stream, d.put({1, 1}, {2}), false, d.put({1, 2}, {3, 4}), false, 0, c);
      });
  EXPECT_EQ(got, (Floats{6, 8}));
}

TEST_F(TrainingTest, TransposeIsExact) {
  for (const auto& [n, d] : {std::pair<int64_t, int64_t>{1, 1}, {1, 70}, {33, 31}, {193, 65}}) {
    const Floats a = floats(n * d);
    const auto body = [&, rows = n, cols = d](Device& device, TrainingOps& ops, const Tensor& out) {
      ops.transpose(*device.stream, device.put({rows, cols}, a), out);
    };
    EXPECT_EQ(on_gpu(d, n, zeros(n * d), body), on_cpu(d, n, zeros(n * d), body));
  }
}

TEST_F(TrainingTest, ComposeTakesEveryCombinationOfPartsAndTypes) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (const int64_t n_in : {1, 7, 193, 512}) {
      const int64_t n_out = 5;
      const HostTensor w = host_tensor(dtype, {n_out, n_in}, floats(n_out * n_in));
      const Floats q = floats(n_out * n_in), r = floats(n_out), c = floats(n_in);
      for (int mask = 0; mask < 16; ++mask) {
        if ((mask & 3) == 0) continue;
        const auto body = [&](Device& d, TrainingOps& ops, const Tensor& out) {  // out is q
          ops.compose(*d.stream, (mask & 1) != 0 ? d.backend->import_weight(w) : Tensor{},
                      (mask & 2) != 0 ? out : Tensor{},
                      (mask & 4) != 0 ? d.put({n_out}, r) : Tensor{},
                      (mask & 8) != 0 ? d.put({n_in}, c) : Tensor{}, out);
        };
        const Floats want = on_cpu(n_out, n_in, q, body);
        std::vector<double> bounds;
        const Floats wf = w.to_float();
        for (size_t i = 0; i < want.size(); ++i) {
          const double size =
              std::abs(static_cast<double>(want[i])) + 2 * std::abs(static_cast<double>(wf[i]));
          bounds.push_back(6 * kU * size + 1e-37);
        }
        expect_close(on_gpu(n_out, n_in, q, body), want, bounds,
                     fmt::format("{} {} parts {}", dtype_name(dtype), n_in, mask));
      }
    }
  }
}

TEST_F(TrainingTest, GainGradientsRowDotsAndColumnSumsAreAdded) {
  for (const auto& [n_out, n_in] :
       {std::pair<int64_t, int64_t>{1, 1}, {3, 193}, {65, 7}, {300, 1000}}) {
    const Floats g = floats(n_out * n_in), q = floats(n_out * n_in), r = floats(n_out),
                 c = floats(n_in), before_r = floats(n_out), before_c = floats(n_in);
    const auto gains = [&, rows = n_out, cols = n_in](const Floats& gv, const Floats& qv,
                                                      const Floats& rv, const Floats& cv,
                                                      bool of_rows, bool has_gains) {
      return [=](Device& d, TrainingOps& ops, const Tensor& out) {
        ops.gain_gradients(*d.stream, d.put({rows, cols}, gv), d.put({rows, cols}, qv),
                           has_gains ? d.put({rows}, rv) : Tensor{},
                           has_gains ? d.put({cols}, cv) : Tensor{}, of_rows ? out : Tensor{},
                           of_rows ? Tensor{} : out);
      };
    };
    for (const bool of_rows : {true, false}) {
      const Floats& before = of_rows ? before_r : before_c;
      const auto n = static_cast<int64_t>(before.size());
      for (const bool has_gains : {true, false}) {
        const Floats size = on_cpu(
            1, n, magnitudes(before),
            gains(magnitudes(g), magnitudes(q), magnitudes(r), magnitudes(c), of_rows, has_gains));
        const auto body = gains(g, q, r, c, of_rows, has_gains);
        expect_close(on_gpu(1, n, before, body), on_cpu(1, n, before, body),
                     times(2 * gamma_k((of_rows ? n_in : n_out) + 4), size), "gains");
      }
    }
    const auto sums = [&, rows = n_out, cols = n_in](const Floats& a, const Floats& b, bool dots) {
      return [=](Device& d, TrainingOps& ops, const Tensor& out) {
        const Tensor x = d.put({rows, cols}, a);
        const Tensor to = out.reshaped({out.size()});
        dots ? ops.add_row_dots(*d.stream, x, d.put({rows, cols}, b), to)
             : ops.add_col_sums(*d.stream, x, to);
      };
    };
    for (const bool dots : {true, false}) {
      const Floats& before = dots ? before_r : before_c;
      const auto n = static_cast<int64_t>(before.size());
      expect_close(
          on_gpu(1, n, before, sums(g, q, dots)), on_cpu(1, n, before, sums(g, q, dots)),
          times(2 * gamma_k((dots ? n_in : n_out) + 2),
                on_cpu(1, n, magnitudes(before), sums(magnitudes(g), magnitudes(q), dots))),
          dots ? "dots" : "sums");
    }
  }
}

TEST_F(TrainingTest, RmsNormBackwardOfEveryPieceInPlace) {
  constexpr double kEps = 1e-5;
  for (const auto& [rows, per_row, d] :
       {std::array<int64_t, 3>{1, 1, 1}, {5, 3, 16}, {70, 1, 193}, {130, 2, 512}}) {
    const int64_t n = rows * per_row * d;
    const Floats x = floats(n), w = floats(d), dy = floats(n), before = floats(d);
    std::vector<double> want, bounds;
    std::vector<double> want_w(before.begin(), before.end()), bounds_w(want_w.size());
    for (int64_t first = 0; first < n; first += d) {
      double squares = 0, dot = 0, dot_size = 0;
      for (int64_t i = 0; i < d; ++i) {
        const double v = static_cast<double>(x[first + i]);
        const double t = v * static_cast<double>(dy[first + i]) * static_cast<double>(w[i]);
        squares += v * v;
        dot += t;
        dot_size += std::abs(t);
      }
      const double by = 1 / std::sqrt(squares / static_cast<double>(d) + kEps);
      const double cube = by * by * by / static_cast<double>(d);
      for (int64_t i = 0; i < d; ++i) {
        const double v = static_cast<double>(x[first + i]), g = static_cast<double>(dy[first + i]);
        const double own = g * static_cast<double>(w[i]) * by;
        want.push_back(own - v * cube * dot);
        bounds.push_back(8 * kU * (std::abs(own) + std::abs(v) * cube * dot_size) + 1e-37);
        want_w[static_cast<size_t>(i)] += g * v * by;
        bounds_w[static_cast<size_t>(i)] += std::abs(g * v * by);
      }
    }
    for (size_t i = 0; i < bounds_w.size(); ++i)
      bounds_w[i] =
          gamma_k(rows * per_row + 6) * (bounds_w[i] + std::abs(static_cast<double>(before[i])));
    const Tensor d_weight = gpu().put({d}, before);
    const Floats got =
        on_gpu(rows, per_row * d, dy,
               [&, width = per_row * d, n_rows = rows, size = d](Device& device, TrainingOps& ops,
                                                                 const Tensor& out) {
                 ops.rms_norm_backward(*device.stream, device.put({n_rows, width}, x),
                                       device.put({size}, w), kEps, out, out, d_weight);
               });
    expect_close(got, Floats(want.begin(), want.end()), bounds, "dx");
    expect_close(gpu().get(d_weight), Floats(want_w.begin(), want_w.end()), bounds_w, "d_weight");
  }
}

TEST_F(TrainingTest, SiluMulBackwardFollowsTheCpuInPlaceAndAtExtremes) {
  const int64_t n = 3001;
  Floats gate = floats(n, 4);
  const Floats up = floats(n), d_out = floats(n);
  gate[0] = -90, gate[1] = 90, gate[2] = 0;
  const auto body = [&](bool of_gate) {
    return [&, of_gate](Device& d, TrainingOps& ops, const Tensor& out) {  // in place of its input
      const Tensor g = of_gate ? out : d.put({n}, gate), u = of_gate ? d.put({n}, up) : out;
      ops.silu_mul_backward(*d.stream, g.reshaped({n}), u.reshaped({n}), d.put({n}, d_out),
                            g.reshaped({n}), u.reshaped({n}));
    };
  };
  for (const bool of_gate : {true, false}) {
    const Floats want = on_cpu(1, n, of_gate ? gate : up, body(of_gate));
    std::vector<double> bounds;
    for (size_t i = 0; i < want.size(); ++i) {  // 1 + g (1 - s) may cancel
      const double g = std::abs(static_cast<double>(gate[i]));
      const double size = std::abs(static_cast<double>(d_out[i])) *
                          (of_gate ? std::abs(static_cast<double>(up[i])) * (1 + g) : g);
      bounds.push_back(16 * kU * size + 1e-30);
    }
    expect_close(on_gpu(1, n, of_gate ? gate : up, body(of_gate)), want, bounds, "silu");
  }
}

TEST_F(TrainingTest, KlGradientFollowsTheCpu) {
  struct Case {
    int64_t n, width, n_vocab, k;
  };
  for (const Case& c : {Case{1, 1, 1, 1},
                        {3, 9, 7, 7},
                        {5, 300, 300, 64},
                        {4, 33000, 32000, 64},
                        {2, 5000, 5000, 2000}}) {
    const Floats logits = floats(c.n * c.width, 4);
    Floats log_p, weights = magnitudes(floats(c.n));
    std::vector<int32_t> ids;
    for (int64_t r = 0; r < c.n; ++r) {
      for (int64_t i = 0; i < c.k; ++i) {
        ids.push_back(static_cast<int32_t>((i * 7 + r) % c.n_vocab));
        log_p.push_back(-std::log(static_cast<float>(c.k)) - 0.3f - 0.001f * static_cast<float>(i));
      }
      // 7 and the vocabulary have no common divisor, or ids would not be distinct
      std::vector<int32_t> own(ids.end() - c.k, ids.end());
      std::ranges::sort(own);
      if (std::ranges::adjacent_find(own) != own.end())
        for (int64_t i = 0; i < c.k; ++i)
          ids[static_cast<size_t>(r * c.k + i)] = static_cast<int32_t>(i);
    }
    double loss[2] = {};
    const auto body = [&](double& to) {
      return [&](Device& d, TrainingOps& ops, const Tensor& out) {
        const Tensor on_device = d.backend->allocate(DType::kI32, {c.n, c.k});
        d.backend->upload(*d.stream, std::as_bytes(std::span(ids)), on_device);
        to = ops.kl_gradient(*d.stream, out, c.n_vocab, on_device, d.put({c.n, c.k}, log_p),
                             d.put({c.n}, weights));
      };
    };
    const Floats want = on_cpu(c.n, c.width, logits, body(loss[0]));
    const Floats got = on_gpu(c.n, c.width, logits, body(loss[1]));
    // exp of f32: the rounding of z - shift, which is below 40, and of expf and the products.
    constexpr double kRelative = 64 * kU;
    std::vector<double> bounds;
    for (size_t i = 0; i < want.size(); ++i) {
      bounds.push_back(kRelative * std::abs(static_cast<double>(want[i])) +
                       kRelative * static_cast<double>(weights[i / static_cast<size_t>(c.width)]) /
                           static_cast<double>(c.n_vocab));
    }
    expect_close(got, want, bounds, fmt::format("{} of {} tokens", c.k, c.n_vocab));
    EXPECT_NEAR(loss[1], loss[0], 1e-6 * std::abs(loss[0]) + 1e-9);
  }
}

TEST_F(TrainingTest, TopTokensAreTheCpusWithTies) {
  struct Case {
    int64_t n, width, n_vocab, k;
    bool ties;
  };
  for (const Case& c : {Case{1, 1, 1, 1, false},
                        {3, 9, 7, 7, false},
                        {7, 300, 300, 64, true},
                        {4, 33000, 32000, 64, false},
                        {2, 5000, 4999, 2000, true}}) {
    Floats logits = floats(c.n * c.width, 4);
    if (c.ties) {
      for (float& v : logits) v = std::round(v);
    }
    const auto run = [&](Device& d) {
      const Tensor ids = d.backend->allocate(DType::kI32, {c.n, c.k});
      const Tensor log_p = d.backend->allocate(DType::kF32, {c.n, c.k});
      d.backend->training().top_tokens(*d.stream, d.put({c.n, c.width}, logits), c.n_vocab, ids,
                                       log_p);
      return std::pair(d.get<int32_t>(ids), d.get(log_p));
    };
    const auto [ids, log_p] = run(gpu());
    const auto [want_ids, want_log_p] = run(cpu_);
    EXPECT_EQ(ids, want_ids) << c.k << " of " << c.n_vocab;
    expect_close(log_p, want_log_p, times(2 * kU, magnitudes(want_log_p)), "log p");
  }
}

TEST_F(TrainingTest, AdamFollowsTheCpuOverSteps) {
  const int64_t n = 1025;
  const Floats start = floats(n), g1 = floats(n), g2 = floats(n);
  const auto body = [&](Device& d, TrainingOps& ops, const Tensor& p) {
    const Tensor m = d.put({n}, zeros(n)), v = d.put({n}, zeros(n));
    int64_t step = 0;
    for (const Floats* g : {&g1, &g2, &g1}) {
      const Tensor gradient = d.put({n}, *g);
      ops.adam(*d.stream, {.rate = 0.01f, .step = ++step}, p.reshaped({n}), gradient, m, v);
      EXPECT_EQ(d.get(gradient), zeros(n));
    }
  };
  // Three steps of at most about `rate` each, with some ten roundings.
  expect_close(on_gpu(1, n, start, body), on_cpu(1, n, start, body),
               times(4 * kU, Floats(static_cast<size_t>(n), 4)), "parameters");
}

struct AttentionCase {
  std::vector<int64_t> lengths;
  AttentionShape shape;
};

TEST_F(TrainingTest, AttentionAndItsBackwardFollowTheCpu) {
  const AttentionCase cases[] = {
      {{1}, {.n_heads = 1, .n_kv_heads = 1, .head_dim = 4}},
      {{5, 1, 0, 70}, {.n_heads = 4, .n_kv_heads = 2, .head_dim = 16}},
      {{300, 257}, {.n_heads = 6, .n_kv_heads = 2, .head_dim = 32}},
      {{600, 33}, {.n_heads = 2, .n_kv_heads = 2, .head_dim = 64, .window = 100}},
  };
  for (const AttentionCase& c : cases) {
    int64_t n = 0, longest = 0;
    for (const int64_t length : c.lengths) n += length, longest = std::max(longest, length);
    const int64_t width = c.shape.n_heads * c.shape.head_dim,
                  kv = c.shape.n_kv_heads * c.shape.head_dim;
    const Floats q = floats(n * width), k = floats(n * kv), v = floats(n * kv),
                 d_out = floats(n * width);
    const auto largest = [](const Floats& x) {
      double most = 0;
      for (const float e : x) most = std::max(most, std::abs(static_cast<double>(e)));
      return most;
    };
    // Bounds by the largest elements: errors of a score, then of what is made of all of them.
    const double dim = static_cast<double>(c.shape.head_dim);
    const double score = gamma_k(c.shape.head_dim + 2) * std::sqrt(dim) * largest(q) * largest(k);
    const double sums = gamma_k(longest + c.shape.head_dim + 8);
    const auto forward = [&](Device& d, TrainingOps& ops, const Tensor& out) {
      ops.attention(*d.stream, c.lengths, c.shape, d.put({n, width}, q), d.put({n, kv}, k),
                    d.put({n, kv}, v), out);
    };
    expect_close(
        on_gpu(n, width, zeros(n * width), forward), on_cpu(n, width, zeros(n * width), forward),
        std::vector<double>(static_cast<size_t>(n * width), (4 * score + 2 * sums) * largest(v)),
        "attention");
    for (const int wanted : {0, 1, 2}) {
      const int64_t cols = wanted == 0 ? width : kv;
      const auto backward = [&](Device& d, TrainingOps& ops, const Tensor& out) {
        const Tensor dq = d.put({n, width}, zeros(n * width)), dk = d.put({n, kv}, zeros(n * kv)),
                     dv = d.put({n, kv}, zeros(n * kv));
        ops.attention_backward(*d.stream, c.lengths, c.shape, d.put({n, width}, q),
                               d.put({n, kv}, k), d.put({n, kv}, v), d.put({n, width}, d_out),
                               wanted == 0 ? out : dq, wanted == 1 ? out : dk,
                               wanted == 2 ? out : dv);
      };
      const double d_score = 2 * std::sqrt(dim) * largest(d_out) * largest(v);  // of all keys
      const double queries = static_cast<double>(longest * c.shape.n_heads / c.shape.n_kv_heads);
      const double size = wanted == 0   ? d_score * largest(k)
                          : wanted == 1 ? queries * d_score * largest(q)
                                        : queries * largest(d_out);
      expect_close(
          on_gpu(n, cols, floats(n * cols), backward), on_cpu(n, cols, zeros(n * cols), backward),
          std::vector<double>(static_cast<size_t>(n * cols), (8 * score + 4 * sums) * size),
          fmt::format("gradient {}", wanted));
    }
  }
}

TEST_F(TrainingTest, EveryRunGivesTheSameBits) {
  const int64_t n = 300;
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 32};
  const std::vector<int64_t> lengths{n};
  const Floats q = floats(n * 128), k = floats(n * 64), a = floats(n * 700), b = floats(700 * n);
  const auto attention = [&](Device& d, TrainingOps& ops, const Tensor& out) {
    const Tensor keys = d.put({n, 64}, k);
    ops.attention(*d.stream, lengths, shape, d.put({n, 128}, q), keys, keys, out);
  };
  const auto product = [&](Device& d, TrainingOps& ops, const Tensor& out) {
    ops.matmul(*d.stream, d.put({n, 700}, a), false, d.put({700, n}, b), false, 0, out);
  };
  const Floats first = on_gpu(n, 128, zeros(n * 128), attention);
  const Floats first_product = on_gpu(n, n, zeros(n * n), product);
  for (int run = 0; run < 3; ++run) {
    EXPECT_EQ(on_gpu(n, 128, zeros(n * 128), attention), first);
    EXPECT_EQ(on_gpu(n, n, zeros(n * n), product), first_product);
  }
}

}  // namespace
}  // namespace deltacome::cuda
