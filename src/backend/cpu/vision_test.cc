// SPDX-License-Identifier: Apache-2.0
#include "backend/vision_ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/test_support.h"

namespace deltacome {
namespace {

constexpr double kUnit = 0x1p-24;

std::vector<float> random_values(int64_t n, uint64_t seed, float spread = 1) {
  std::mt19937_64 random(seed);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = spread * (static_cast<float>(random() >> 40) * 0x1p-23F - 1);
  return out;
}

class VisionOpsTest : public testing::TestWithParam<const cpu::Kernels*> {
 protected:
  Tensor upload(const std::vector<float>& values, Shape shape) {
    const Tensor out = backend_.allocate(DType::kF32, std::move(shape));
    backend_.upload(*stream_, std::as_bytes(std::span(values)), out);
    return out;
  }
  std::vector<float> download(const Tensor& tensor) {
    std::vector<float> out(static_cast<size_t>(tensor.size()));
    backend_.download(*stream_, tensor, std::as_writable_bytes(std::span(out)));
    return out;
  }

  CpuBackend backend_{2, *GetParam()};
  std::unique_ptr<Stream> stream_ = backend_.create_stream();
  VisionOps& ops_ = backend_.vision();
};

TEST_P(VisionOpsTest, LayerNormIsThatOfDoublePrecision) {
  for (const int64_t d : {1, 2, 3, 7, 48, 193}) {
    const int64_t n = 5;
    std::vector<float> x = random_values(n * d, 1);
    for (float& v : x) v += 30;  // far from zero: the mean has to be taken off before squaring
    const std::vector<float> w = random_values(d, 2), b = random_values(d, 3);
    const Tensor y = upload(x, {n, d});
    ops_.layer_norm(*stream_, y, upload(w, {d}), upload(b, {d}), 1e-5, y);
    const std::vector<float> got = download(y);
    for (int64_t r = 0; r < n; ++r) {
      double mean = 0, variance = 0;
      const float* row = x.data() + r * d;
      for (int64_t i = 0; i < d; ++i) mean += static_cast<double>(row[i]) / static_cast<double>(d);
      for (int64_t i = 0; i < d; ++i)
        variance += std::pow(static_cast<double>(row[i]) - mean, 2) / static_cast<double>(d);
      for (int64_t i = 0; i < d; ++i) {
        const auto at = static_cast<size_t>(i);
        const double part = (static_cast<double>(row[i]) - mean) / std::sqrt(variance + 1e-5) *
                            static_cast<double>(w[at]);
        const double want = part + static_cast<double>(b[at]);
        const double bound = 4 * kUnit * (std::abs(part) + std::abs(static_cast<double>(b[at])));
        EXPECT_NEAR(static_cast<double>(got[static_cast<size_t>(r * d + i)]), want, bound + 1e-12);
      }
    }
  }
}

TEST_P(VisionOpsTest, GelusAreThoseOfTheirDefinitions) {
  const auto exact = [](double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  const auto tanh = [](double x) {
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  };
  const auto quick = [](double x) { return x / (1 + std::exp(-1.702 * x)); };
  const std::vector<std::pair<Gelu, std::function<double(double)>>> forms = {
      {Gelu::kExact, exact}, {Gelu::kTanh, tanh}, {Gelu::kQuick, quick}};
  std::vector<float> x = random_values(5000, 4, 6);
  x.insert(x.end(), {0.0F, -100.0F, 100.0F});
  for (const auto& [form, want] : forms) {
    const Tensor y = upload(x, {1, static_cast<int64_t>(x.size())});
    ops_.gelu(*stream_, form, y);
    const std::vector<float> got = download(y);
    for (size_t i = 0; i < x.size(); ++i) {
      const auto in = static_cast<double>(x[i]);
      // 1 + erf and 1 + tanh cancel for negative x: an error of a unit of 1.
      EXPECT_NEAR(static_cast<double>(got[i]), want(in), 16 * kUnit * (std::abs(in) + 1e-30))
          << static_cast<int>(form) << " of " << in;
    }
  }
}

TEST_P(VisionOpsTest, EveryRowAttendsToAllRows) {
  struct Case {
    int64_t n, heads, head_dim;
  };
  for (const Case& c :
       {Case{1, 1, 1}, Case{2, 3, 5}, Case{17, 4, 12}, Case{65, 2, 32}, Case{193, 1, 64}}) {
    const int64_t width = c.heads * c.head_dim;
    const std::vector<float> q = random_values(c.n * width, 5, 2),
                             k = random_values(c.n * width, 6, 2),
                             v = random_values(c.n * width, 7);
    constexpr float kGuard = 12345;
    const Tensor all = upload(std::vector<float>(static_cast<size_t>((c.n + 2) * width), kGuard),
                              {c.n + 2, width});
    const Shape shape{c.n, width};
    ops_.full_attention(*stream_, c.heads, upload(q, shape), upload(k, shape), upload(v, shape),
                        all.slice(1, c.n));
    const std::vector<float> got = download(all);
    const auto at = [&](const std::vector<float>& x, int64_t row, int64_t i) {
      return static_cast<double>(x[static_cast<size_t>(row * width + i)]);
    };
    for (int64_t i = 0; i < width; ++i) {
      EXPECT_EQ(got[static_cast<size_t>(i)], kGuard);
      EXPECT_EQ(got[static_cast<size_t>((c.n + 1) * width + i)], kGuard);
    }
    for (int64_t row = 0; row < c.n; ++row) {
      for (int64_t h = 0; h < c.heads; ++h) {
        std::vector<double> p(static_cast<size_t>(c.n));
        double sum = 0, largest = -std::numeric_limits<double>::infinity(), size = 0;
        for (int64_t j = 0; j < c.n; ++j) {
          double score = 0, magnitude = 0;
          for (int64_t i = h * c.head_dim; i < (h + 1) * c.head_dim; ++i) {
            score += at(q, row, i) * at(k, j, i);
            magnitude += std::abs(at(q, row, i) * at(k, j, i));
          }
          p[static_cast<size_t>(j)] = score / std::sqrt(static_cast<double>(c.head_dim));
          largest = std::max(largest, p[static_cast<size_t>(j)]);
          size = std::max(size, magnitude);
        }
        for (double& x : p) sum += x = std::exp(x - largest);
        for (int64_t i = h * c.head_dim; i < (h + 1) * c.head_dim; ++i) {
          double want = 0, magnitude = 0;
          for (int64_t j = 0; j < c.n; ++j) {
            want += p[static_cast<size_t>(j)] / sum * at(v, j, i);
            magnitude += p[static_cast<size_t>(j)] / sum * std::abs(at(v, j, i));
          }
          // A score that is off by e changes its weight by a factor of exp(e), the sum alike.
          const double score_error = 2 * static_cast<double>(c.head_dim + 4) * kUnit * size;
          const double bound =
              (score_error + static_cast<double>(2 * c.n + 16) * kUnit) * magnitude;
          EXPECT_NEAR(at(got, row + 1, i), want, bound) << c.n << " rows, row " << row;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, VisionOpsTest,
                         testing::ValuesIn(cpu::available_kernels().begin(),
                                           cpu::available_kernels().end()),
                         cpu::testing::isa_name);

}  // namespace
}  // namespace deltacome
