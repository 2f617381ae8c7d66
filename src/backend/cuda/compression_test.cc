// SPDX-License-Identifier: Apache-2.0
#include "backend/compression_ops.h"

#include <numeric>
#include <random>

#include "backend/cuda/test_support.h"
#include "quant/codes.h"
#include "quant/vector_codes.h"

namespace deltacome::cuda {
namespace {

using namespace testing;

using Values = std::vector<double>;

constexpr double kU = 0x1p-53;

class CompressionTest : public CudaTest {
 protected:
  static Tensor put(Device& d, Shape shape, const Values& values) {
    const Tensor t = d.backend->allocate(DType::kF64, std::move(shape));
    d.backend->upload(*d.stream, std::as_bytes(std::span(values)), t);
    return t;
  }
  static Values get(Device& d, const Tensor& t) { return d.get<double>(t); }
  static CompressionOps& ops(Device& d) { return d.backend->compression(); }

  Values normal(int64_t n) {
    std::normal_distribution<double> distribution;
    Values values(static_cast<size_t>(n));
    for (double& v : values) v = distribution(rng_);
    return values;
  }
  /// B^T B + 0.1 I with B [2n, n] whose columns have unequal energy and are correlated.
  Values hessian(int64_t n) {
    Values b = normal(2 * n * n);
    for (int64_t r = 0; r < 2 * n; ++r) {
      for (int64_t i = 1; i < n; ++i)
        b[static_cast<size_t>(r * n + i)] =
            (0.7 * b[static_cast<size_t>(r * n + i - 1)] + b[static_cast<size_t>(r * n + i)]) *
            (i % 3 == 0 ? 1.5 : 1.0);
    }
    const Tensor x = put(cpu_, {2 * n, n}, b), h = put(cpu_, {n, n}, Values(n * n));
    ops(cpu_).matmul(*cpu_.stream, x, true, x, false, h);
    ops(cpu_).add_diagonal(*cpu_.stream, h, Values(static_cast<size_t>(n), 0.1));
    return get(cpu_, h);
  }
  /// Sum over rows of (q - w) H (q - w)^T.
  double loss(const Values& w, const Values& q, const Values& h, int64_t rows, int64_t n) {
    const Tensor d = put(cpu_, {rows, n}, w), out = put(cpu_, {rows, n}, w);
    ops(cpu_).subtract(*cpu_.stream, put(cpu_, {rows, n}, q), d, d);
    ops(cpu_).matmul(*cpu_.stream, d, false, put(cpu_, {n, n}, h), false, out);
    const Values sums = ops(cpu_).row_dots(*cpu_.stream, out, d);
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  }
  static void expect_near(const Values& got, const Values& want, const Values& bound,
                          const std::string& what) {
    ASSERT_EQ(got.size(), want.size()) << what;
    size_t worst = 0;
    double excess = -1;
    for (size_t i = 0; i < got.size(); ++i) {
      const double by = std::abs(got[i] - want[i]) / (bound[i] + 1e-300);
      if (!(by <= excess)) worst = i, excess = by;
      if (std::isnan(by)) break;
    }
    EXPECT_LE(excess, 1) << what << ": element " << worst << " is " << got[worst] << ", expected "
                         << want[worst] << " within " << bound[worst];
  }
  static Values uniform_bound(size_t n, double bound) { return Values(n, bound); }
};

TEST_F(CompressionTest, GramAddsProductsOfAllRowsAndIsSymmetric) {
  for (const auto& [n, d] : {std::pair<int64_t, int64_t>{1, 1}, {5, 3}, {4099, 70}, {300, 193}}) {
    const std::vector<float> x = random_floats(rng_, n * d);
    const Values before(static_cast<size_t>(d * d), 2.0);
    const Tensor c = put(gpu(), {d, d}, before);
    ops(gpu()).gram(*gpu().stream, gpu().put({n, d}, x), c);
    const Tensor want = put(cpu_, {d, d}, before), size = put(cpu_, {d, d}, before);
    ops(cpu_).gram(*cpu_.stream, cpu_.put({n, d}, x), want);
    ops(cpu_).gram(*cpu_.stream, cpu_.put({n, d}, magnitudes(x)), size);
    Values bound = get(cpu_, size);
    for (double& v : bound) v *= 2.1 * gamma_k(std::min<int64_t>(n, 4096));
    const Values got = get(gpu(), c);
    expect_near(got, get(cpu_, want), bound, fmt::format("{} x {}", n, d));
    for (int64_t i = 0; i < d; ++i) {
      for (int64_t j = 0; j < i; ++j)
        ASSERT_EQ(got[static_cast<size_t>(i * d + j)], got[static_cast<size_t>(j * d + i)]);
    }
  }
}

TEST_F(CompressionTest, ElementsAreMovedAndJoinedExactly) {
  const int64_t n = 37, d = 70;
  const Values a = normal(n * d), b = normal(n * d), by_row = normal(n), by_col = normal(d),
               square = normal(n * n);
  const std::vector<int64_t> rows{5, 0, 36, 5};
  const auto run = [&](Device& device, int what) -> Values {
    CompressionOps& o = ops(device);
    Stream& s = *device.stream;
    const Tensor x = put(device, {n, d}, a), y = put(device, {n, d}, b);
    switch (what) {
      case 0:
        o.subtract(s, x, y, x);
        return get(device, x);
      case 1:
        o.multiply(s, x, y, y);
        return get(device, y);
      case 2: {
        const Tensor out = put(device, {d, n}, b);
        o.transpose(s, x, out);
        return get(device, out);
      }
      case 3: {
        const Tensor out = put(device, {4, d}, Values(static_cast<size_t>(4 * d)));
        o.gather_rows(s, x, rows, out);
        return get(device, out);
      }
      case 4:
        o.copy(s, x.slice(3, 30), y.slice(0, 30));
        return get(device, y);
      case 5:
        o.clear(s, x.slice(1, 2));
        return get(device, x);
      case 6: {
        const Tensor q = put(device, {n, n}, square);
        o.add_diagonal(s, q, by_row);
        Values out = get(device, q);
        const Values diagonal = o.diagonal(s, q);
        out.insert(out.end(), diagonal.begin(), diagonal.end());
        return out;
      }
      case 7:
        o.scale(s, x, by_row, {});
        o.scale(s, x, {}, by_col);
        return get(device, x);
      default:
        o.scale(s, x, by_row, by_col);
        return get(device, x);
    }
  };
  for (int what = 0; what < 9; ++what) EXPECT_EQ(run(gpu(), what), run(cpu_, what)) << what;
}

TEST_F(CompressionTest, SubtractIsExactForCheckpointTypes) {
  const std::vector<float> x = random_floats(rng_, 193), y = random_floats(rng_, 193);
  for (const DType a : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (const DType b : {DType::kF32, DType::kBf16, DType::kF16}) {
      const auto run = [&](Device& d) {
        const Tensor out = put(d, {1, 193}, Values(193));
        ops(d).subtract(*d.stream, d.backend->import_weight(host_tensor(a, {1, 193}, x)),
                        d.backend->import_weight(host_tensor(b, {1, 193}, y)), out);
        return get(d, out);
      };
      EXPECT_EQ(run(gpu()), run(cpu_));
    }
  }
}

TEST_F(CompressionTest, ProductsAndRowDotsAreInDouble) {
  const int64_t m = 45, k = 193, n = 70;
  const Values a = normal(m * k), b = normal(k * n);
  const auto absolute = [](Values v) {
    for (double& x : v) x = std::abs(x);
    return v;
  };
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      const auto run = [&](Device& d, const Values& x, const Values& y) {
        const Tensor out = put(d, {m, n}, Values(static_cast<size_t>(m * n), NAN));
        ops(d).matmul(*d.stream, put(d, ta ? Shape{k, m} : Shape{m, k}, x), ta,
                      put(d, tb ? Shape{n, k} : Shape{k, n}, y), tb, out);
        return get(d, out);
      };
      Values bound = run(cpu_, absolute(a), absolute(b));
      for (double& v : bound) v *= 2.1 * static_cast<double>(k) * kU;
      expect_near(run(gpu(), a, b), run(cpu_, a, b), bound, "product");
    }
  }
  const auto dots = [&](Device& d, const Values& x) {
    return ops(d).row_dots(*d.stream, put(d, {m, k}, x), put(d, {m, k}, x));
  };
  Values bound = dots(cpu_, a);
  for (double& v : bound) v *= 2.1 * static_cast<double>(k) * kU;
  expect_near(dots(gpu(), a), dots(cpu_, a), bound, "dots");
}

TEST_F(CompressionTest, EigenvectorsAreOrthonormalAndLargestFirst) {
  for (const int64_t n : {1, 2, 33, 260}) {
    const Values h = hessian(n);
    const Tensor v = put(gpu(), {n, n}, h);
    const Values got = ops(gpu()).eigh(*gpu().stream, v);
    const Tensor other = put(cpu_, {n, n}, h);
    const Values want = ops(cpu_).eigh(*cpu_.stream, other);
    const double error = 20 * static_cast<double>(n) * kU * want[0];
    expect_near(got, want, uniform_bound(got.size(), error), "eigenvalues");
    // V H V^T = diag(values), V V^T = 1
    const Tensor vh = put(gpu(), {n, n}, h), diagonal = put(gpu(), {n, n}, h);
    ops(gpu()).matmul(*gpu().stream, v, false, put(gpu(), {n, n}, h), false, vh);
    ops(gpu()).matmul(*gpu().stream, vh, false, v, true, diagonal);
    Values expected(static_cast<size_t>(n * n)), one(expected.size());
    for (int64_t i = 0; i < n; ++i) {
      expected[static_cast<size_t>(i * n + i)] = got[static_cast<size_t>(i)];
      one[static_cast<size_t>(i * n + i)] = 1;
    }
    expect_near(get(gpu(), diagonal), expected, uniform_bound(expected.size(), 2 * error),
                "V H V^T");
    ops(gpu()).matmul(*gpu().stream, v, false, v, true, vh);
    expect_near(get(gpu(), vh), one, uniform_bound(one.size(), 20 * static_cast<double>(n) * kU),
                "V V^T");
  }
}

TEST_F(CompressionTest, GptqGivesTheCpusCodesAtEveryWidthAndBlock) {
  // In float64 on both sides: a code differs only where a weight is within 1e-12 of a boundary.
  const int64_t rows = 37, n = 150;
  const Values w = normal(rows * n), h = hessian(n);
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.rbegin(), order.rend(), 0);
  std::swap(order[3], order[77]);
  const auto factor = ops(gpu()).gptq_factor(*gpu().stream, put(gpu(), {n, n}, h), order, 0.01);
  const auto other = ops(cpu_).gptq_factor(*cpu_.stream, put(cpu_, {n, n}, h), order, 0.01);
  for (const int bits : {1, 2, 3, 4, 8, 16}) {
    const std::vector<CodeSection> sections{{0, 70, {bits, 1, 16}},
                                            {70, 13, {bits, 4, 1}},
                                            {83, 40, {bits, 1, 0}},
                                            {123, 27, {2, 0, 1}}};
    for (const bool feedback : {false, true}) {
      const Tensor on_gpu = put(gpu(), {rows, n}, w);
      const Quantized got =
          ops(gpu()).gptq(*gpu().stream, on_gpu, feedback ? factor.get() : nullptr, sections);
      const Quantized want = ops(cpu_).gptq(*cpu_.stream, put(cpu_, {rows, n}, w),
                                            feedback ? other.get() : nullptr, sections);
      EXPECT_EQ(get(gpu(), on_gpu), w);
      for (size_t s = 0; s < sections.size(); ++s) {
        EXPECT_EQ(got.sections[s].codes, want.sections[s].codes) << bits << " bits, section " << s;
        EXPECT_EQ(got.sections[s].scales, want.sections[s].scales)
            << bits << " bits, section " << s;
        EXPECT_EQ(got.sections[s].halves, want.sections[s].halves)
            << bits << " bits, section " << s;
      }
      expect_near(get(gpu(), got.values), get(cpu_, want.values), uniform_bound(w.size(), 1e-12),
                  "values");
    }
  }
}

TEST_F(CompressionTest, DeadInputsAndZeroWeightsStayFinite) {
  const int64_t rows = 3, n = 70;
  Values h = hessian(n), w = normal(rows * n);
  for (int64_t i = 0; i < n; ++i) h[static_cast<size_t>(i)] = h[static_cast<size_t>(i * n)] = 0;
  for (int64_t i = 0; i < n; ++i) w[static_cast<size_t>(n + i)] = 0;
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  const auto factor = ops(gpu()).gptq_factor(*gpu().stream, put(gpu(), {n, n}, h), order, 0.01);
  const std::vector<CodeSection> sections{{0, n, {2, 1, 0}}};
  const Tensor weights = put(gpu(), {rows, n}, w);
  const Quantized q = ops(gpu()).gptq(*gpu().stream, weights, factor.get(), sections);
  for (const double v : get(gpu(), q.values)) ASSERT_TRUE(std::isfinite(v));
  const VectorQuantized v = ops(gpu()).quantize_vectors(*gpu().stream, weights, factor.get(), 8);
  for (const double x : get(gpu(), v.values)) ASSERT_TRUE(std::isfinite(x));
  const auto dead = ops(gpu()).gptq_factor(
      *gpu().stream, put(gpu(), {n, n}, Values(static_cast<size_t>(n * n))), order, 0.01);
  EXPECT_EQ(ops(gpu()).gptq(*gpu().stream, weights, dead.get(), sections).sections[0].codes,
            ops(gpu()).gptq(*gpu().stream, weights, nullptr, sections).sections[0].codes);
}

TEST_F(CompressionTest, VectorsAreTheCpusButForNearTies) {
  const int64_t rows = 60;
  for (const int dim : kBookDimensions) {
    for (const int64_t n : {int64_t{5}, int64_t{200}, int64_t{333}}) {
      const Values w = normal(rows * n), h = hessian(n);
      std::vector<int64_t> order(static_cast<size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      const auto on_gpu = ops(gpu()).gptq_factor(*gpu().stream, put(gpu(), {n, n}, h), order, 0.01);
      const auto on_cpu = ops(cpu_).gptq_factor(*cpu_.stream, put(cpu_, {n, n}, h), order, 0.01);
      for (const bool feedback : {false, true}) {
        const VectorQuantized got = ops(gpu()).quantize_vectors(
            *gpu().stream, put(gpu(), {rows, n}, w), feedback ? on_gpu.get() : nullptr, dim);
        const VectorQuantized want = ops(cpu_).quantize_vectors(
            *cpu_.stream, put(cpu_, {rows, n}, w), feedback ? on_cpu.get() : nullptr, dim);
        EXPECT_EQ(got.scales, want.scales);
        const int64_t per_row = (n + dim - 1) / dim;
        ASSERT_EQ(got.codes.size(), static_cast<size_t>(rows * per_row));
        // Scores are f32 sums in another order: a row may leave the CPU's path at a near tie.
        int64_t n_same = 0;
        const Values values = get(gpu(), got.values), other = get(cpu_, want.values);
        for (int64_t r = 0; r < rows; ++r) {
          n_same +=
              std::equal(got.codes.begin() + r * per_row, got.codes.begin() + (r + 1) * per_row,
                         want.codes.begin() + r * per_row);
          const double scale = f16_to_float(got.scales[static_cast<size_t>(r)]);
          for (int64_t i = 0; i < n; ++i) {
            const size_t code = got.codes[static_cast<size_t>(r * per_row + i / dim)];
            ASSERT_EQ(
                values[static_cast<size_t>(r * n + i)],
                scale *
                    static_cast<double>(
                        static_cast<float>(code_book(
                            dim)[code * static_cast<size_t>(dim) + static_cast<size_t>(i % dim)]) *
                        kBookStep));
          }
        }
        EXPECT_GE(n_same, rows * 9 / 10) << "dim " << dim << " n " << n << " feedback " << feedback;
        EXPECT_NEAR(loss(w, values, h, rows, n) / loss(w, other, h, rows, n), 1, 0.02);
      }
    }
  }
}

TEST_F(CompressionTest, SolveRightMultipliesBackAndRefusesAnIndefiniteMatrix) {
  const int64_t m = 21, n = 150;
  const Values h = hessian(n), b = normal(m * n);
  const Tensor x = put(gpu(), {m, n}, b), back = put(gpu(), {m, n}, b);
  ops(gpu()).solve_right(*gpu().stream, put(gpu(), {n, n}, h), x);
  ops(gpu()).matmul(*gpu().stream, x, false, put(gpu(), {n, n}, h), false, back);
  const double size = *std::max_element(h.begin(), h.end()) * static_cast<double>(n);
  double largest = 0;
  for (const double v : get(gpu(), x)) largest = std::max(largest, std::abs(v));
  expect_near(get(gpu(), back), b,
              uniform_bound(b.size(), 10 * static_cast<double>(n) * kU * size * largest), "x a");
  try {
    ops(gpu()).solve_right(*gpu().stream, put(gpu(), {2, 2}, {1, 2, 2, 1}),
                           put(gpu(), {1, 2}, {1, 1}));
    FAIL() << "an indefinite matrix was solved";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
  }
}

TEST_F(CompressionTest, RotateRowsIsTheRotationOfTheFormat) {
  for (const int64_t n : {int64_t{1}, int64_t{6}, int64_t{64}, int64_t{3072}, int64_t{2752}}) {
    const Values a = normal(5 * n);
    const std::vector<float> signs = rotation_signs(7, n);
    const auto run = [&](Device& d) {
      const Tensor x = put(d, {5, n}, a);
      ops(d).rotate_rows(*d.stream, x, signs, rotation_block(n));
      return get(d, x);
    };
    expect_near(run(gpu()), run(cpu_), uniform_bound(a.size(), 1e-13), "rotated");
  }
}

}  // namespace
}  // namespace deltacome::cuda
