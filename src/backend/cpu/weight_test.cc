// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/weight.h"

#include <limits>

#include "backend/cpu/test_support.h"

namespace deltacome::cpu {
namespace {

using namespace testing;

class WeightTest : public EachIsa {
 protected:
  ThreadPool pool_{1};

  std::vector<float> product(const HostTensor& w, WeightFormat format, const std::vector<float>& x,
                             int64_t n) {
    Guarded y(backend_, n, w.rows());
    const std::vector<VariantSegment> segments = {{nullptr, n}};
    const auto plan = backend_.plan_variants(segments);
    const LinearTarget target = linear_target(0, backend_.import_projection(w, format), y.tensor());
    backend_.linear(*stream_, *plan, device_tensor(backend_, {n, w.cols()}, x), {&target, 1});
    EXPECT_TRUE(y.intact());
    return {f32(y.tensor()), f32(y.tensor()) + n * w.rows()};
  }
};
DELTACOME_FOR_EACH_ISA(WeightTest);

const std::vector<int64_t> kInputs = {1, 7, 31, 32, 33, 127, 128, 130, 400, 1057, 2100};

TEST_P(WeightTest, CodesAreWithinAStepOfTheWeights) {
  for (const int64_t n_in : kInputs) {
    const HostTensor w = random_tensor(rng_, DType::kBf16, {5, n_in});
    const std::vector<float> stored = w.to_float();
    const Tensor int8 = make_projection(Runtime{pool_, *GetParam()}, w, WeightFormat::kInt8);
    const Tensor int4 = make_projection(Runtime{pool_, *GetParam()}, w, WeightFormat::kInt4);
    std::vector<float> out(static_cast<size_t>(n_in));
    for (int64_t r = 0; r < 5; ++r) {
      const std::span<const float> row =
          std::span(stored).subspan(static_cast<size_t>(r * n_in), out.size());
      float largest = 0;
      for (const float v : row) largest = std::max(largest, std::abs(v));
      projection_of(int8).packed->decode_row(r, out.data());
      for (size_t i = 0; i < out.size(); ++i)  // half a step of 255 levels
        EXPECT_NEAR(out[i], row[i], 0.5001f * largest / 127.5f);
      projection_of(int4).packed->decode_row(r, out.data());
      double error = 0, energy = 0;
      for (size_t i = 0; i < out.size(); ++i) {
        error += std::pow(out[i] - row[i], 2);
        energy += std::pow(row[i], 2);
      }
      EXPECT_LE(error, 0.02 * energy + 1e-6);  // a uniform step of 16 levels over +-3 sigma: 0.012
    }
  }
}

TEST_P(WeightTest, WeightBytesAreThoseThatCodesHoldButForPadding) {
  for (const int64_t n_in : kInputs) {
    const HostTensor w = random_tensor(rng_, DType::kBf16, {37, n_in});
    for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
      const Tensor held = make_projection(Runtime{pool_, *GetParam()}, w, format);
      const int64_t bytes = projection_of(held).packed->bytes();
      EXPECT_GE(bytes, weight_bytes(format, w.dtype, w.shape)) << n_in << " inputs";
      // Four panels, of 16, 16, 4 and 4 rows: columns to units of at most 32.
      const Shape padded = {40, (n_in + 31) / 32 * 32};
      EXPECT_LE(bytes, weight_bytes(format, w.dtype, padded)) << n_in << " inputs";
    }
  }
}

TEST_P(WeightTest, CodesOfWeightsThatAreNotFiniteAreRefused) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    std::vector<float> values = random_floats(rng_, 40 * 130);
    values[37 * 130 + 129] = bad;
    const HostTensor w = host_tensor(DType::kBf16, {40, 130}, values);
    for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
      try {
        backend_.import_projection(w, format);
        ADD_FAILURE() << bad;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
        EXPECT_NE(std::string(error.what()).find("row 37, column 129 is "), std::string::npos)
            << error.what();
      }
    }
  }
}

TEST_P(WeightTest, WeightsTooSmallForAScaleAreZeros) {
  for (const float tiny : {1e-45f, 1e-42f, 1e-38f}) {
    const HostTensor w = host_tensor(DType::kF32, {2, 3}, {tiny, 0, -tiny, 0, 0, tiny});
    for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
      const Tensor held = backend_.import_projection(w, format);
      std::vector<float> row(3);
      projection_of(held).packed->decode_row(0, row.data());
      for (const float v : row) EXPECT_NEAR(v, 0, 2e-38);
    }
  }
}

TEST_P(WeightTest, ProductsAreThoseOfTheDecodedCodes) {
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (const int64_t n_in : kInputs) {
      const int64_t n = 6, n_out = 19;
      const HostTensor w = random_tensor(rng_, DType::kF32, {n_out, n_in});
      const std::vector<float> x = random_floats(rng_, n * n_in);
      const std::vector<float> y = product(w, format, x, n);
      const Tensor held = backend_.import_projection(w, format);
      const PackedRows& rows = *projection_of(held).packed;
      std::vector<float> row(static_cast<size_t>(n_in));
      for (int64_t o = 0; o < n_out; ++o) {
        rows.decode_row(o, row.data());
        double range = 0;  // of the codes, at most twice the largest magnitude and a step
        for (const float v : row) range = std::max(range, 2.3 * std::abs(static_cast<double>(v)));
        for (int64_t t = 0; t < n; ++t) {
          const Activations input = quantized({x.data() + t * n_in, static_cast<size_t>(n_in)});
          double want = 0;
          for (int64_t i = 0; i < n_in; ++i)
            want += static_cast<double>(row[static_cast<size_t>(i)]) *
                    input.values[static_cast<size_t>(i)];
          EXPECT_NEAR(y[static_cast<size_t>(t * n_out + o)], want, code_slack(input, range));
        }
      }
    }
  }
}

TEST_P(WeightTest, Bf16RoundsInputsWhereTheProcessorMultipliesBf16) {
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    for (const int64_t n_in : kInputs) {
      const int64_t n = 9, n_out = 21;
      const HostTensor w = random_tensor(rng_, dtype, {n_out, n_in});
      const std::vector<float> x = random_floats(rng_, n * n_in);
      const std::vector<float> y = product(w, WeightFormat::kBf16, x, n);
      const std::vector<float> weights = w.to_float();
      const auto round = [](float v) { return bf16_to_float(float_to_bf16(v)); };
      const bool rounds = GetParam()->bf16 != nullptr;
      for (int64_t t = 0; t < n; ++t) {
        for (int64_t o = 0; o < n_out; ++o) {
          double want = 0, magnitude = 0;
          for (int64_t i = 0; i < n_in; ++i) {
            const float v = x[static_cast<size_t>(t * n_in + i)];
            const double term =
                static_cast<double>(rounds ? round(v) : v) *
                static_cast<double>(round(weights[static_cast<size_t>(o * n_in + i)]));
            want += term;
            magnitude += std::abs(term);
          }
          ASSERT_NEAR(y[static_cast<size_t>(t * n_out + o)], want, gamma_k(n_in + 8) * magnitude);
        }
      }
    }
  }
}

TEST_P(WeightTest, ARowDoesNotDependOnTheOthers) {
  const int64_t n_in = 2500;  // more than one pass of every kernel
  const HostTensor w = random_tensor(rng_, DType::kBf16, {70, n_in});
  for (const WeightFormat format :
       {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    const std::vector<float> x = random_floats(rng_, 40 * n_in);
    const std::vector<float> all = product(w, format, x, 40);
    for (int64_t n = 1; n < 14; ++n) {
      const std::vector<float> part =
          product(w, format, {x.begin() + 3 * n_in, x.begin() + (3 + n) * n_in}, n);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 3 * 70)) << n;
    }
  }
}

}  // namespace
}  // namespace deltacome::cpu
