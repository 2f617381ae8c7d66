// SPDX-License-Identifier: Apache-2.0
// Matrices of checkpoints in low precision: codes, scales, zeros and orders of columns.
#include <numeric>

#include "backend/cuda/test_support.h"

namespace deltacome::cuda {
namespace {

using namespace testing;

struct Form {
  int bits = 4;
  int64_t n_out = 0, n_in = 0, group = 0;
  enum class Zeros { kNone, kOne, kAny } zeros = Zeros::kAny;
  bool ordered = false;
};

class QuantizedTest : public CudaTest {
 protected:
  /// Codes and scales at random; scales are fp16 numbers, zeros whole.
  QuantizedMatrix matrix(const Form& form) {
    QuantizedMatrix m;
    m.n_out = form.n_out;
    m.n_in = form.n_in;
    m.group = form.group;
    m.bits = form.bits;
    std::uniform_int_distribution<int> code(0, (1 << form.bits) - 1);
    for (int64_t i = 0; i < m.n_out * m.n_in; ++i)
      m.codes.push_back(static_cast<uint8_t>(code(rng_)));
    for (const float scale : random_floats(rng_, m.n_out * m.n_groups())) {
      m.scales.push_back(f16_to_float(float_to_f16(0.01F * (1 + std::abs(scale)))));
      if (form.zeros == Form::Zeros::kAny) m.zeros.push_back(static_cast<float>(code(rng_)));
      if (form.zeros == Form::Zeros::kOne)
        m.zeros.push_back(static_cast<float>(1 << (form.bits - 1)));
    }
    if (!form.ordered) return m;
    m.order.resize(static_cast<size_t>(m.n_in));
    std::iota(m.order.begin(), m.order.end(), 0);
    std::shuffle(m.order.begin(), m.order.end(), rng_);
    return m;
  }

  /// y of each matrix, from one call, and the same of the double-precision values.
  static std::vector<std::vector<float>> products(Device& device,
                                                  const std::vector<Tensor>& weights,
                                                  const std::vector<float>& x, int64_t n) {
    std::vector<Guarded> outputs;
    std::vector<LinearTarget> targets;
    for (const Tensor& weight : weights) {
      outputs.emplace_back(device, n, weight.rows());
      LinearTarget target;
      target.weight = weight;
      target.y = outputs.back().tensor();
      targets.push_back(std::move(target));
    }
    const auto plan = device.base_plan(n);
    device.backend->linear(*device.stream, *plan, device.put({n, weights.front().cols()}, x),
                           targets);
    std::vector<std::vector<float>> out;
    for (const Guarded& output : outputs) out.push_back(output.get());
    return out;
  }
  static std::vector<double> exact(const QuantizedMatrix& m, const std::vector<float>& x,
                                   int64_t n) {
    std::vector<double> out(static_cast<size_t>(n * m.n_out));
    std::vector<float> row(static_cast<size_t>(m.n_in));
    for (int64_t o = 0; o < m.n_out; ++o) {
      m.decode_row(o, row);
      for (int64_t t = 0; t < n; ++t) {
        double sum = 0;
        for (int64_t i = 0; i < m.n_in; ++i)
          sum += static_cast<double>(row[static_cast<size_t>(i)]) *
                 static_cast<double>(x[static_cast<size_t>(t * m.n_in + i)]);
        out[static_cast<size_t>(t * m.n_out + o)] = sum;
      }
    }
    return out;
  }
  static double relative_error(const std::vector<float>& got, const std::vector<double>& want) {
    double error = 0, size = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      error += std::pow(static_cast<double>(got[i]) - want[i], 2);
      size += want[i] * want[i];
    }
    return std::sqrt(error / size);
  }

  /// Up to 64 rows the CPU's arithmetic but for the order of sums, and for inputs between two
  /// codes, which may become either: a step of one of n * n_in inputs. More rows see weights and
  /// inputs as bf16, where the CPU sees inputs in 8 bits.
  void expect_products(const QuantizedMatrix& m, const std::string& what) {
    const Tensor on_gpu = gpu().backend->import_quantized(m).tensor;
    const Tensor on_cpu = cpu_.backend->import_quantized(m).tensor;
    for (const int64_t n : {1, 3, 8, 9, 17, 40, 64, 70, 150}) {
      const std::vector<float> x = random_floats(rng_, n * m.n_in);
      const std::vector<float> got = products(gpu(), {on_gpu}, x, n).front();
      const std::vector<float> cpu = products(cpu_, {on_cpu}, x, n).front();
      const double step = 4.5 / 127;  // of the largest input
      const double same = 1e-4 + 2 * step / std::sqrt(static_cast<double>(n * m.n_in));
      const std::string where = what + ", " + std::to_string(n) + " rows";
      EXPECT_LE(relative_error(got, {cpu.begin(), cpu.end()}), n <= 64 ? same : 0.02) << where;
      EXPECT_LE(relative_error(got, exact(m, x, n)), 0.03) << where;
    }
  }
};

std::string name_of(const Form& form) {
  return std::to_string(form.bits) + " bits, " + std::to_string(form.n_out) + " x " +
         std::to_string(form.n_in) + ", groups of " + std::to_string(form.group) + ", zeros " +
         std::to_string(static_cast<int>(form.zeros)) + (form.ordered ? ", ordered" : "");
}

TEST_F(QuantizedTest, UniformCodesAreKept) {
  for (const int bits : {4, 8}) {
    for (const int64_t n_in : {7, 128, 130, 300, 1057}) {
      for (const int64_t group : {int64_t{128}, int64_t{256}, n_in}) {
        for (const auto zeros : {Form::Zeros::kNone, Form::Zeros::kOne, Form::Zeros::kAny}) {
          const Form form{.bits = bits, .n_out = 67, .n_in = n_in, .group = group, .zeros = zeros};
          const QuantizedMatrix m = matrix(form);
          const QuantizedImport held = gpu().backend->import_quantized(m);
          EXPECT_EQ(held.relative_error, 0) << name_of(form);
          const int64_t beside = zeros == Form::Zeros::kAny ? 6 : 2;  // bytes of a group
          EXPECT_LE(held.bytes, 67 * ((n_in * bits + 7) / 8 + beside * ((n_in + 127) / 128) + 6))
              << name_of(form);
          expect_products(m, name_of(form));
        }
      }
    }
  }
}

TEST_F(QuantizedTest, ColumnsInActivationOrderReadTheirInputs) {
  for (const auto zeros : {Form::Zeros::kOne, Form::Zeros::kAny}) {
    for (const int64_t n_in : {130, 512}) {
      const Form form{.n_out = 40, .n_in = n_in, .group = 128, .zeros = zeros, .ordered = true};
      expect_products(matrix(form), name_of(form));
    }
  }
}

TEST_F(QuantizedTest, OtherCodesBecomeTheNearestOf8Bits) {
  for (const int64_t n_in : {192, 400, 1057}) {
    const Form form{.n_out = 67, .n_in = n_in, .group = 64, .ordered = n_in == 400};
    const QuantizedMatrix small = matrix(form);  // groups below the layout's
    QuantizedMatrix table =
        matrix({.n_out = 67, .n_in = n_in, .group = n_in, .zeros = Form::Zeros::kNone});
    table.levels = {-1.0F, -0.7F, -0.53F, -0.39F, -0.28F, -0.18F, -0.09F, 0.0F,
                    0.08F, 0.16F, 0.25F,  0.34F,  0.44F,  0.56F,  0.72F,  1.0F};
    for (const QuantizedMatrix& m : {small, table}) {
      const QuantizedImport held = gpu().backend->import_quantized(m);
      const QuantizedImport on_cpu = cpu_.backend->import_quantized(m);
      EXPECT_EQ(held.bytes, on_cpu.bytes);
      EXPECT_GT(held.relative_error, 0);
      EXPECT_NEAR(held.relative_error, on_cpu.relative_error, 1e-6 * on_cpu.relative_error);
      expect_products(m, name_of(form));
    }
  }
}

TEST_F(QuantizedTest, TargetsOfOneCallHaveFormsOfTheirOwn) {
  using Zeros = Form::Zeros;
  const int64_t n_in = 384;
  std::vector<QuantizedMatrix> matrices = {
      matrix({.n_out = 70, .n_in = n_in, .group = 128, .ordered = true}),
      matrix({.bits = 8, .n_out = 33, .n_in = n_in, .group = n_in, .zeros = Zeros::kOne}),
      matrix({.n_out = 129, .n_in = n_in, .group = 128, .zeros = Zeros::kAny}),
      matrix({.n_out = 5, .n_in = n_in, .group = 128, .zeros = Zeros::kNone, .ordered = true}),
      matrix({.n_out = 64, .n_in = n_in, .group = 32, .zeros = Zeros::kOne})};
  matrices[3].order = matrices[0].order;
  std::vector<Tensor> weights;
  for (const QuantizedMatrix& m : matrices)
    weights.push_back(gpu().backend->import_quantized(m).tensor);
  weights.push_back(gpu().backend->import_weight(
      host_tensor(DType::kBf16, {48, n_in}, random_floats(rng_, 48 * n_in))));
  for (const int64_t n : {1, 5, 30, 100}) {
    const std::vector<float> x = random_floats(rng_, n * n_in);
    const auto together = products(gpu(), weights, x, n);
    for (size_t i = 0; i < weights.size(); ++i) {
      const std::vector<float> alone = products(gpu(), {weights[i]}, x, n).front();
      EXPECT_LE(relative_error(together[i], {alone.begin(), alone.end()}), 1e-6)
          << "target " << i << ", " << n << " rows";
    }
    for (size_t i = 0; i < matrices.size(); ++i)
      EXPECT_LE(relative_error(together[i], exact(matrices[i], x, n)), 0.03) << "target " << i;
  }
}

TEST_F(QuantizedTest, AMatrixWhereAnotherLayIsItsOwn) {
  const std::vector<float> x = random_floats(rng_, 2 * 256);
  for (int again = 0; again < 8; ++again) {
    QuantizedMatrix m = matrix({.n_out = 64, .n_in = 256, .group = 128});
    m.zeros.assign(m.zeros.size(), static_cast<float>(again));
    const Tensor weight = gpu().backend->import_quantized(m).tensor;
    EXPECT_LE(relative_error(products(gpu(), {weight}, x, 2).front(), exact(m, x, 2)), 0.03);
    gpu().stream->synchronize();
  }
}

TEST_F(QuantizedTest, CodesTakeTheMemoryTheyNeed) {
  const Form form{.n_out = 1024, .n_in = 4096, .group = 128, .zeros = Form::Zeros::kOne};
  const QuantizedImport held = gpu().backend->import_quantized(matrix(form));
  EXPECT_EQ(held.bytes, 1024 * (4096 / 2 + 2 * 32));  // a zero that all share is no matter
  expect_products(matrix({.n_out = 1024, .n_in = 4096, .group = 128}), "a layer");
}

}  // namespace
}  // namespace deltacome::cuda
