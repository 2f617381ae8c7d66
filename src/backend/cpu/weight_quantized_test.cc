// SPDX-License-Identifier: Apache-2.0
#include <numeric>

#include "backend/cpu/test_support.h"
#include "backend/cpu/weight.h"

namespace deltacome::cpu {
namespace {

using namespace testing;

class QuantizedWeightTest : public EachIsa {
 protected:
  /// Codes and scales at random; scales are fp16 numbers, zeros whole.
  QuantizedMatrix matrix(int bits, int64_t n_out, int64_t n_in, int64_t group, bool zeros = true) {
    QuantizedMatrix m;
    m.n_out = n_out;
    m.n_in = n_in;
    m.group = group;
    m.bits = bits;
    std::uniform_int_distribution<int> code(0, (1 << bits) - 1);
    for (int64_t i = 0; i < n_out * n_in; ++i) m.codes.push_back(static_cast<uint8_t>(code(rng_)));
    for (const float scale : random_floats(rng_, n_out * m.n_groups())) {
      m.scales.push_back(f16_to_float(float_to_f16(0.01F * (1 + std::abs(scale)))));
      if (zeros) m.zeros.push_back(static_cast<float>(code(rng_)));
    }
    return m;
  }

  std::vector<float> product(const Tensor& weight, const std::vector<float>& x, int64_t n) {
    Guarded y(backend_, n, weight.rows());
    const std::vector<VariantSegment> segments = {{nullptr, n}};
    const auto plan = backend_.plan_variants(segments);
    const LinearTarget target = linear_target(0, weight, y.tensor());
    backend_.linear(*stream_, *plan, device_tensor(backend_, {n, weight.cols()}, x), {&target, 1});
    EXPECT_TRUE(y.intact());
    return {f32(y.tensor()), f32(y.tensor()) + n * weight.rows()};
  }

  /// Products are those of the matrix's values and the quantized inputs; `share` of a row's largest
  /// value is what a held value may be off by.
  void expect_products(const QuantizedMatrix& m, double share) {
    const int64_t n = 6;
    const std::vector<float> x = random_floats(rng_, n * m.n_in);
    const std::vector<float> y = product(backend_.import_quantized(m).tensor, x, n);
    std::vector<float> row(static_cast<size_t>(m.n_in));
    for (int64_t o = 0; o < m.n_out; ++o) {
      m.decode_row(o, row);
      double largest = 0, step = 0;
      for (const float v : row) largest = std::max(largest, std::abs(static_cast<double>(v)));
      for (int64_t g = 0; g < m.n_groups(); ++g)
        step = std::max(step,
                        static_cast<double>(m.scales[static_cast<size_t>(o * m.n_groups() + g)]));
      for (int64_t t = 0; t < n; ++t) {
        std::vector<float> sorted(x.begin() + t * m.n_in, x.begin() + (t + 1) * m.n_in);
        std::vector<float> weights = row;
        for (size_t i = 0; i < m.order.size(); ++i) {  // inputs are quantized in the codes' order
          sorted[i] = x[static_cast<size_t>(t * m.n_in + m.order[i])];
          weights[i] = row[static_cast<size_t>(m.order[i])];
        }
        const Activations input = quantized(std::span<const float>(sorted));
        double want = 0, magnitude = 0;
        for (size_t i = 0; i < sorted.size(); ++i) {
          want += static_cast<double>(weights[i]) * input.values[i];
          magnitude += std::abs(input.values[i]);
        }
        // Codes are up to 2^bits steps from the layout's center, which zeros take back.
        const double range = 2 * largest + step * (1 << m.bits);
        ASSERT_NEAR(y[static_cast<size_t>(t * m.n_out + o)], want,
                    code_slack(input, range) + share * largest * magnitude +
                        gamma_k(m.n_in / 64 + 8) * range * magnitude)
            << "row " << o << ", " << m.n_in << " inputs";
      }
    }
  }
};
DELTACOME_FOR_EACH_ISA(QuantizedWeightTest);

const std::vector<int64_t> kInputs = {1, 7, 127, 128, 130, 256, 400, 1057};

TEST_P(QuantizedWeightTest, UniformCodesAreKept) {
  for (const int bits : {4, 8}) {
    for (const int64_t n_in : kInputs) {
      for (const int64_t group : {int64_t{128}, int64_t{256}, n_in}) {
        for (const bool zeros : {false, true}) {
          const QuantizedMatrix m = matrix(bits, 19, n_in, group, zeros);
          const QuantizedImport held = backend_.import_quantized(m);
          EXPECT_EQ(held.relative_error, 0);
          EXPECT_LE(held.bytes, 19 * ((n_in * bits + 7) / 8 + 6 * ((n_in + 127) / 128) + 8));
          expect_products(m, 0);
        }
      }
    }
  }
}

TEST_P(QuantizedWeightTest, ZerosAtTheCenterOfTheLayoutTakeNoRoom) {
  QuantizedMatrix m = matrix(4, 5, 256, 128);
  const int64_t with = backend_.import_quantized(m).bytes;
  m.zeros.assign(m.zeros.size(), 7.5F);
  EXPECT_EQ(with - backend_.import_quantized(m).bytes, 5 * 2 * 4);
  expect_products(m, 0);
}

TEST_P(QuantizedWeightTest, ColumnsInActivationOrderReadTheirInputs) {
  for (const int64_t n_in : {int64_t{130}, int64_t{512}}) {
    QuantizedMatrix m = matrix(4, 19, n_in, 128);
    m.order.resize(static_cast<size_t>(n_in));
    std::iota(m.order.begin(), m.order.end(), 0);
    std::shuffle(m.order.begin(), m.order.end(), rng_);
    expect_products(m, 0);
  }
}

TEST_P(QuantizedWeightTest, TargetsOfOneCallHaveOrdersOfTheirOwn) {
  const int64_t n_in = 256, n = 3;
  const std::vector<float> x = random_floats(rng_, n * n_in);
  std::vector<Tensor> weights;
  std::vector<std::vector<float>> alone;
  for (const bool ordered : {true, false, true}) {
    QuantizedMatrix m = matrix(4, 7, n_in, 128);
    if (ordered) {
      m.order.resize(n_in);
      std::iota(m.order.begin(), m.order.end(), 0);
      std::shuffle(m.order.begin(), m.order.end(), rng_);
    }
    weights.push_back(backend_.import_quantized(m).tensor);
    alone.push_back(product(weights.back(), x, n));
  }
  std::vector<Guarded> outputs;
  std::vector<LinearTarget> targets;
  for (const Tensor& weight : weights) {
    outputs.emplace_back(backend_, n, weight.rows());
    targets.push_back(linear_target(0, weight, outputs.back().tensor()));
  }
  const std::vector<VariantSegment> segments = {{nullptr, n}};
  backend_.linear(*stream_, *backend_.plan_variants(segments),
                  device_tensor(backend_, {n, n_in}, x), targets);
  for (size_t i = 0; i < weights.size(); ++i) {
    const float* y = f32(outputs[i].tensor());
    EXPECT_TRUE(std::equal(alone[i].begin(), alone[i].end(), y)) << i;
  }
}

TEST_P(QuantizedWeightTest, OtherCodesBecomeTheNearestOf8Bits) {
  for (const int64_t n_in : {int64_t{192}, int64_t{400}}) {
    QuantizedMatrix small = matrix(4, 19, n_in, 64);  // groups below the layout's
    QuantizedMatrix table = matrix(4, 19, n_in, n_in, false);
    table.levels = {-1.0F, -0.7F, -0.53F, -0.39F, -0.28F, -0.18F, -0.09F, 0.0F,
                    0.08F, 0.16F, 0.25F,  0.34F,  0.44F,  0.56F,  0.72F,  1.0F};
    for (const QuantizedMatrix& m : {small, table}) {
      const QuantizedImport held = backend_.import_quantized(m);
      EXPECT_GT(held.relative_error, 0);
      EXPECT_LT(held.relative_error, 0.008);  // uniform steps of largest / 127.5
      expect_products(m, 0.51 / 127.5);
    }
  }
}

TEST_P(QuantizedWeightTest, ScalesThatAreNoFp16NumbersAreMeasured) {
  QuantizedMatrix m = matrix(4, 4, 256, 128);
  for (float& scale : m.scales) scale *= 1.0002F;
  const double error = backend_.import_quantized(m).relative_error;
  EXPECT_GT(error, 0);
  EXPECT_LT(error, 0x1p-11);  // half a step of fp16
}

}  // namespace
}  // namespace deltacome::cpu
