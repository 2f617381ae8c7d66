// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/compression.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "backend/cpu/gptq.h"
#include "quant/codes.h"
#include "tests/support/f64_backend_test.h"

namespace deltacome::cpu {
namespace {

using test::Values;

class CompressionTest : public test::F64BackendTest {
 protected:
  static Values normal(int64_t n, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> distribution;
    Values values(static_cast<size_t>(n));
    for (double& value : values) value = distribution(random);
    return values;
  }
  /// B^T B + 0.1 I with B [2n, n] whose columns have unequal energy.
  static Values hessian(int64_t n, uint32_t seed) {
    const Values b = normal(2 * n * n, seed);
    Values h(static_cast<size_t>(n * n));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = i == j ? 0.1 : 0;
        for (int64_t k = 0; k < 2 * n; ++k)
          sum += b[static_cast<size_t>(k * n + i)] * b[static_cast<size_t>(k * n + j)];
        h[static_cast<size_t>(i * n + j)] = sum * static_cast<double>((1 + i % 3) * (1 + j % 3));
      }
    }
    return h;
  }
  static double loss(const Values& w, const Values& q, const Values& h, int64_t rows, int64_t n) {
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const auto at = [&](int64_t k) { return static_cast<size_t>(r * n + k); };
          sum += (q[at(i)] - w[at(i)]) * (q[at(j)] - w[at(j)]) * h[static_cast<size_t>(i * n + j)];
        }
      }
    }
    return sum;
  }

  CompressionOps& ops_ = backend_->compression();
};

TEST_F(CompressionTest, GramAddsProductsOfAllRows) {
  for (const auto& [n, d] : {std::pair<int64_t, int64_t>{1, 1}, {5, 3}, {4099, 7}, {3, 193}}) {
    std::vector<float> x(static_cast<size_t>(n * d));
    const Values values = normal(n * d, 3);
    std::copy(values.begin(), values.end(), x.begin());
    const Tensor inputs = backend_->allocate(DType::kF32, {n, d});
    backend_->upload(*stream_, std::as_bytes(std::span(x)), inputs);
    const Tensor c = put(Values(static_cast<size_t>(d * d), 2.0), {d, d});
    ops_.gram(*stream_, inputs, c);
    const Values got = get(c);
    for (int64_t i = 0; i < d; ++i) {
      for (int64_t j = 0; j < d; ++j) {
        double want = 2, magnitude = 0;
        for (int64_t r = 0; r < n; ++r) {
          const double term = static_cast<double>(x[static_cast<size_t>(r * d + i)]) *
                              x[static_cast<size_t>(r * d + j)];
          want += term;
          magnitude += std::abs(term);
        }
        const double k =
            static_cast<double>(std::min<int64_t>(n, 4096)) * 0x1p-24;  // gamma_k, Higham 3.1
        EXPECT_NEAR(got[static_cast<size_t>(i * d + j)], want, k / (1 - k) * magnitude + 1e-12);
      }
    }
  }
}

TEST_F(CompressionTest, ElementsAreMovedAndJoinedExactly) {
  const Tensor a = put({1, 2, 3, 4, 5, 6}, {3, 2}), b = put({2, 2, 2, -1, -1, -1}, {3, 2});
  ops_.multiply(*stream_, a, b, b);
  EXPECT_EQ(get(b), (Values{2, 4, 6, -4, -5, -6}));
  const Tensor rows = put(Values(8, 0), {4, 2});
  ops_.gather_rows(*stream_, a, std::vector<int64_t>{2, 0, 0, 1}, rows);
  EXPECT_EQ(get(rows), (Values{5, 6, 1, 2, 1, 2, 3, 4}));
  ops_.clear(*stream_, a.slice(1, 1));
  EXPECT_EQ(get(a), (Values{1, 2, 0, 0, 5, 6}));
  const Tensor square = put({1, 2, 3, 4}, {2, 2});
  EXPECT_EQ(ops_.diagonal(*stream_, square), (Values{1, 4}));
  ops_.add_diagonal(*stream_, square, Values{10, 20});
  EXPECT_EQ(get(square), (Values{11, 2, 3, 24}));
}

TEST_F(CompressionTest, SubtractIsExactForCheckpointTypes) {
  std::vector<uint16_t> a{float_to_bf16(1.5f), float_to_bf16(-3e-5f)},
      b{float_to_f16(0.25f), float_to_f16(7)};
  const Tensor out = backend_->allocate(DType::kF64, {1, 2});
  ops_.subtract(*stream_, backend_->import_weight(HostTensor::of(DType::kBf16, {1, 2}, a)),
                backend_->import_weight(HostTensor::of(DType::kF16, {1, 2}, b)), out);
  EXPECT_EQ(get(out), (Values{1.25, static_cast<double>(bf16_to_float(a[1])) - 7}));
}

TEST_F(CompressionTest, GptqCodesDecodeToItsValuesAtEveryWidthAndBlock) {
  const int64_t rows = 9, n = 70;
  const Values w = normal(rows * n, 5);
  const Tensor h = put(hessian(n, 6), {n, n});
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.rbegin(), order.rend(), 0);
  const auto factor = ops_.gptq_factor(*stream_, h, order, 0.01);
  for (const int bits : {1, 2, 3, 4, 8, 16}) {
    const std::vector<CodeSection> sections{{0, 33, {bits, 1, 16}}, {33, 37, {bits, 4, 1}}};
    for (const GptqFactor* f :
         {static_cast<const GptqFactor*>(nullptr), static_cast<const GptqFactor*>(factor.get())}) {
      const Tensor weights = put(w, {rows, n});
      const Quantized q = ops_.gptq(*stream_, weights, f, sections);
      EXPECT_EQ(get(weights), w);
      const Values values = get(q.values);
      for (size_t s = 0; s < sections.size(); ++s) {
        const CodedArray array{.format = sections[s].format,
                               .rows = rows,
                               .cols = sections[s].count,
                               .codes = q.sections[s].codes,
                               .scales = q.sections[s].scales,
                               .values = q.sections[s].halves};
        const std::vector<float> decoded = decode(array);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < array.cols; ++c) {
            const double want = values[static_cast<size_t>(r * n + sections[s].first + c)];
            EXPECT_NEAR(decoded[static_cast<size_t>(r * array.cols + c)], want,
                        1e-6 * std::abs(want) + 1e-12);
          }
        }
      }
    }
  }
}

TEST_F(CompressionTest, FeedbackLowersTheLossUnderTheHessianAndIsTheTextbookRecursion) {
  const int64_t rows = 6, n = 130;  // more than two column blocks
  const Values w = normal(rows * n, 7), h = hessian(n, 8);
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  const auto factor = ops_.gptq_factor(*stream_, put(h, {n, n}), order, 0.01);
  const std::vector<CodeSection> sections{{0, n, {2, 1, 64}}};
  const Values plain = get(ops_.gptq(*stream_, put(w, {rows, n}), nullptr, sections).values);
  const Quantized quantized = ops_.gptq(*stream_, put(w, {rows, n}), factor.get(), sections);
  const Values fed = get(quantized.values);
  EXPECT_LT(loss(w, fed, h, rows, n), loss(w, plain, h, rows, n));

  // Unblocked: w_k -= e_j * R_jk for all k > j, with the same static scales.
  const auto& f = static_cast<const CpuGptqFactor&>(*factor);
  for (int64_t r = 0; r < rows; ++r) {
    Values row(w.begin() + r * n, w.begin() + (r + 1) * n);
    for (int64_t j = 0; j < n; ++j) {
      const double scale =
          f16_to_float(quantized.sections[0].scales[static_cast<size_t>(r * 3 + j / 64)]);
      const double code = std::clamp(std::floor(row[static_cast<size_t>(j)] / scale) + 2, 0.0, 3.0);
      const double q = scale * (code - 1.5), error = row[static_cast<size_t>(j)] - q;
      ASSERT_EQ(static_cast<double>(quantized.sections[0].codes[static_cast<size_t>(r * n + j)]),
                code)
          << r << ", " << j;
      for (int64_t k = j + 1; k < n; ++k)
        row[static_cast<size_t>(k)] -= error * f.feedback[static_cast<size_t>(j * n + k)];
    }
  }
}

TEST_F(CompressionTest, DeadInputsAndZeroWeightsStayFinite) {
  const int64_t n = 16;
  Values h(static_cast<size_t>(n * n));  // only input 3 is ever active
  h[3 * n + 3] = 5;
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  const auto factor = ops_.gptq_factor(*stream_, put(h, {n, n}), order, 0.01);
  Values w = normal(2 * n, 9);
  std::fill(w.begin(), w.begin() + n, 0.0);
  const std::vector<CodeSection> sections{{0, n, {2, 1, 8}}};
  for (const double value :
       get(ops_.gptq(*stream_, put(w, {2, n}), factor.get(), sections).values)) {
    EXPECT_TRUE(std::isfinite(value));
  }
  const auto nothing =
      ops_.gptq_factor(*stream_, put(Values(static_cast<size_t>(n * n)), {n, n}), order, 0.01);
  for (const double value :
       get(ops_.gptq(*stream_, put(w, {2, n}), nothing.get(), sections).values)) {
    EXPECT_TRUE(std::isfinite(value));
  }
}

}  // namespace
}  // namespace deltacome::cpu
