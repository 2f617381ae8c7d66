// SPDX-License-Identifier: Apache-2.0
#include "compress/codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "compress/plan.h"
#include "compress/svd.h"
#include "quant/codes.h"
#include "tests/support/f64_backend_test.h"

namespace deltacome {
namespace {

using test::Values;

class CodecTest : public test::F64BackendTest {
 protected:
  /// A delta whose spectrum decays like a fine-tune's: sum of 1 / (1 + i) rank-one terms.
  static Values decaying(int64_t n_out, int64_t n_in, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    Values d(static_cast<size_t>(n_out * n_in));
    for (int64_t i = 0; i < std::min(n_out, n_in); ++i) {
      Values u(static_cast<size_t>(n_out)), v(static_cast<size_t>(n_in));
      for (double& x : u) x = normal(random);
      for (double& x : v) x = normal(random);
      const double s = 1e-3 / static_cast<double>(1 + i);
      for (size_t r = 0; r < u.size(); ++r) {
        for (size_t c = 0; c < v.size(); ++c) d[r * v.size() + c] += s * u[r] * v[c];
      }
    }
    return d;
  }
  /// Inputs with correlated channels of unequal energy, C = X^T X.
  Tensor correlated(int64_t n_in, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const int64_t n = 4 * n_in;
    std::vector<float> x(static_cast<size_t>(n * n_in));
    for (int64_t r = 0; r < n; ++r) {
      const float shared = normal(random);
      for (int64_t c = 0; c < n_in; ++c) {
        x[static_cast<size_t>(r * n_in + c)] =
            (shared + normal(random)) * (c % 7 == 0 ? 3.0f : 0.5f);
      }
    }
    const Tensor inputs = backend_->allocate(DType::kF32, {n, n_in});
    backend_->upload(*stream_, std::as_bytes(std::span(x)), inputs);
    const Tensor c = put(Values(static_cast<size_t>(n_in * n_in)), {n_in, n_in});
    backend_->compression().gram(*stream_, inputs, c);
    return c;
  }
  /// E|(q - d) x|^2 / E|d x|^2 in plain loops, q decoded from the blob by the scalar oracle.
  static double relative_error(const CodedTensor& coded, const Values& d, const Values& c) {
    const int64_t n_out = coded.format.n_out(), n_in = coded.format.n_in();
    const DecodedDelta q = decode_delta(coded.format, coded.blob);
    const int64_t rank = coded.format.codec == Codec::kLowRank ? coded.format.rank() : 0;
    double error = 0, whole = 0;
    Values row(static_cast<size_t>(n_in)), exact(row.size());
    for (int64_t o = 0; o < n_out; ++o) {
      for (int64_t i = 0; i < n_in; ++i) {
        double value = rank == 0 ? q.v[static_cast<size_t>(o * n_in + i)] : 0;
        for (int64_t r = 0; r < rank; ++r) {
          value += static_cast<double>(q.u[static_cast<size_t>(o * rank + r)]) *
                   q.s[static_cast<size_t>(r)] * q.v[static_cast<size_t>(r * n_in + i)];
        }
        exact[static_cast<size_t>(i)] = d[static_cast<size_t>(o * n_in + i)];
        row[static_cast<size_t>(i)] = value - exact[static_cast<size_t>(i)];
      }
      const auto energy = [&](const Values& x) {
        double sum = 0;
        for (int64_t i = 0; i < n_in; ++i) {
          for (int64_t j = 0; j < n_in; ++j) {
            sum += x[static_cast<size_t>(i)] * x[static_cast<size_t>(j)] *
                   (c.empty() ? (i == j) : c[static_cast<size_t>(i * n_in + j)]);
          }
        }
        return sum;
      };
      error += energy(row);
      whole += energy(exact);
    }
    return error / whole;
  }
};

TEST_F(CodecTest, SvdKeepsTheLargestComponentsOfTallAndWideMatrices) {
  for (const auto& [n_out, n_in] :
       {std::pair<int64_t, int64_t>{37, 19}, {19, 37}, {24, 24}, {1, 9}}) {
    const Values d = decaying(n_out, n_in, 3);
    const int64_t rank = std::min<int64_t>(std::min(n_out, n_in), 5);
    const Svd parts = svd(*backend_, *stream_, put(d, {n_out, n_in}), rank);
    const Values u = get(parts.u_t), v = get(parts.v);
    double kept = 0, residual = 0;
    for (size_t i = 0; i < static_cast<size_t>(n_out * n_in); ++i) {
      double value = d[i];
      for (int64_t r = 0; r < rank; ++r) {
        value -= u[static_cast<size_t>(r * n_out) + i / static_cast<size_t>(n_in)] *
                 parts.s[static_cast<size_t>(r)] *
                 v[static_cast<size_t>(r * n_in) + i % static_cast<size_t>(n_in)];
      }
      residual += value * value;
    }
    for (size_t i = 0; i < parts.s.size(); ++i) {
      kept += parts.s[i] * parts.s[i];
      if (i > 0) {
        EXPECT_LE(parts.s[i], parts.s[i - 1] * (1 + 1e-9));
      }
    }
    // Eckart-Young: what an orthogonal projection leaves is the norm less the kept squares.
    EXPECT_NEAR(residual, parts.squared_norm - kept, 1e-10 * parts.squared_norm);
  }
}

TEST_F(CodecTest, MeasuredErrorIsThatOfTheStoredBytes) {
  for (const auto& [n_out, n_in] : {std::pair<int64_t, int64_t>{48, 40}, {33, 65}}) {
    const Values d = decaying(n_out, n_in, 5);
    for (const Method method : {Method::kCome, Method::kLowRank, Method::kBitDelta}) {
      const MatrixFormat format = plan_projection(method, {n_out, n_in}, 5, 16);
      const Tensor c = correlated(n_in, 7);
      const Values c_values = get(c);
      const InputStatistics input = make_statistics(*backend_, *stream_, c);
      const CodedTensor coded =
          encode_projection(*backend_, *stream_, "w", format, put(d, {n_out, n_in}), input);
      const double want = relative_error(coded, d, c_values);
      EXPECT_NEAR(coded.stats.relative_error, want, 1e-5 * want + 1e-9) << static_cast<int>(method);
      const CodedTensor plain =
          encode_projection(*backend_, *stream_, "w", format, put(d, {n_out, n_in}), {});
      const double want_plain = relative_error(plain, d, {});
      EXPECT_NEAR(plain.stats.relative_error, want_plain, 1e-5 * want_plain + 1e-9);
    }
  }
}

TEST_F(CodecTest, CalibrationLowersTheErrorOnItsInputs) {
  const Values d = decaying(96, 64, 9);
  const MatrixFormat format = plan_projection(Method::kCome, {96, 64}, 2.5, 16);
  const Tensor c = correlated(64, 11);
  const Values c_values = get(c);
  const InputStatistics input = make_statistics(*backend_, *stream_, c);
  const double with = relative_error(
      encode_projection(*backend_, *stream_, "w", format, put(d, {96, 64}), input), d, c_values);
  const double without = relative_error(
      encode_projection(*backend_, *stream_, "w", format, put(d, {96, 64}), {}), d, c_values);
  EXPECT_LT(with, without);
}

TEST_F(CodecTest, BitDeltaStoresSignAndMeanMagnitude) {
  const Values d{0.5, -1.5, 2, -4};
  const MatrixFormat format = plan_projection(Method::kBitDelta, {2, 2}, 16, 128);
  const CodedTensor coded = encode_projection(*backend_, *stream_, "w", format, put(d, {2, 2}), {});
  EXPECT_EQ(decode_delta(format, coded.blob).v, (std::vector<float>{2, -2, 2, -2}));
}

TEST_F(CodecTest, EmbeddingsKeepAddedRowsWhole) {
  const auto tensor = [](std::vector<float> values, int64_t rows) {
    return HostTensor::of(DType::kF32, {rows, 4}, std::move(values));
  };
  const HostTensor base = tensor({1, 1, 1, 1, 2, 2, 2, 2}, 2);
  const HostTensor finetuned = tensor({1.5f, 0.5f, 1.5f, 0.5f, 2, 2, 2, 2, 7, 8, 9, 10}, 3);
  const MatrixFormat format = plan_embedding(finetuned.shape, 2, DType::kF32, 128);
  const CodedTensor coded = encode_embedding(*backend_, *stream_, "e", format, finetuned, base);
  const BlobLayout layout = layout_of(format);
  std::vector<float> added(4);
  convert_to_float(coded.blob.data() + layout.added.offset, DType::kF32, added);
  EXPECT_EQ(added, (std::vector<float>{7, 8, 9, 10}));
  const std::vector<float> delta = decode_delta(format, coded.blob).v;
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(delta[i], i % 2 == 0 ? 0.5 : -0.5, 0.04);
  for (size_t i = 4; i < 8; ++i) EXPECT_NEAR(delta[i], 0, 1e-6);
}

TEST_F(CodecTest, ALargeEmbeddingIsCodedInPiecesAsInOne) {
  const int64_t rows = (8 << 20) / 8 + 5, cols = 8;  // a piece is 8 Mi weights
  std::vector<float> values(static_cast<size_t>(rows * cols));
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
  }
  const Tensor d = put({values.begin(), values.end()}, {rows, cols});
  const HostTensor base =
      HostTensor::of(DType::kF32, {rows, cols}, std::vector<float>(values.size()));
  const HostTensor finetuned = HostTensor::of(DType::kF32, {rows, cols}, std::move(values));
  const MatrixFormat format = plan_embedding(finetuned.shape, rows, DType::kF32, 8);
  const CodedTensor coded = encode_embedding(*backend_, *stream_, "e", format, finetuned, base);

  const CodeSection whole{0, cols, format.dense};
  const Quantized q = backend_->compression().gptq(*stream_, d, nullptr, {&whole, 1});
  const Values want = get(q.values), exact = get(d);
  const std::vector<float> got = decode_delta(format, coded.blob).v;
  double error = 0, energy = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_EQ(got[i], static_cast<float>(want[i])) << i;
    error += (want[i] - exact[i]) * (want[i] - exact[i]);
    energy += exact[i] * exact[i];
  }
  EXPECT_NEAR(coded.stats.relative_error, error / energy, 1e-9);
}

}  // namespace
}  // namespace deltacome
