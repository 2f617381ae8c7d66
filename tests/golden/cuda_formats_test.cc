// SPDX-License-Identifier: Apache-2.0
// Every format of quantized bases on the GPU: the goldens of tools/make_format_goldens.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>

#include "backend/backend.h"
#include "io/safetensors.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;

const fs::path kFormats = fs::path(DELTACOME_SOURCE_DIR) / "tests/data/formats";
const std::string kWeight = "model.layers.0.mlp.up_proj.weight";

class CudaFormat : public ::testing::TestWithParam<const char*> {};

std::vector<float> product(Backend& backend, const QuantizedMatrix& matrix,
                           const std::vector<float>& x, int64_t n) {
  const auto stream = backend.create_stream();
  const Tensor in = backend.allocate(DType::kF32, {n, matrix.n_in});
  backend.upload(*stream, std::as_bytes(std::span(x)), in);
  LinearTarget target;
  target.weight = backend.import_quantized(matrix).tensor;
  target.y = backend.allocate(DType::kF32, {n, matrix.n_out});
  const VariantSegment segment{nullptr, n};
  const auto plan = backend.plan_variants({&segment, 1});
  backend.linear(*stream, *plan, in, {&target, 1});
  std::vector<float> y(static_cast<size_t>(n * matrix.n_out));
  backend.download(*stream, target.y, std::as_writable_bytes(std::span(y)));
  return y;
}

TEST_P(CudaFormat, ProductsAreThoseOfTheValuesOfTheFormula) {
  std::unique_ptr<Backend> gpu;
  try {
    gpu = create_cuda_backend();
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  const auto cpu = create_cpu_backend(1);
  const Checkpoint checkpoint = Checkpoint::open(kFormats / GetParam());
  const QuantizedMatrix matrix = checkpoint.find_quantized(kWeight)->read();
  const std::vector<float> w =
      SafetensorsFile::open(kFormats / GetParam() / "expected.safetensors").at(kWeight).to_float();
  // In 4 or 8 bits, whatever the format.
  EXPECT_LE(gpu->import_quantized(matrix).bytes, matrix.n_out * (matrix.n_in * 9 / 8 + 8));
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  for (const int64_t n : {1, 8, 64, 70}) {
    std::vector<float> x(static_cast<size_t>(n * matrix.n_in));
    for (float& v : x) v = normal(rng);
    const std::vector<float> got = product(*gpu, matrix, x, n);
    const std::vector<float> beside = product(*cpu, matrix, x, n);
    const double tie = 2 * 4.5 / 127 / std::sqrt(static_cast<double>(n * matrix.n_in));
    double error = 0, to_cpu = 0, size = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      const size_t row = i / static_cast<size_t>(matrix.n_out) * static_cast<size_t>(matrix.n_in);
      const size_t of = i % static_cast<size_t>(matrix.n_out) * static_cast<size_t>(matrix.n_in);
      double want = 0;
      for (size_t k = 0; k < static_cast<size_t>(matrix.n_in); ++k)
        want += static_cast<double>(w[of + k]) * static_cast<double>(x[row + k]);
      error += std::pow(static_cast<double>(got[i]) - want, 2);
      to_cpu += std::pow(static_cast<double>(got[i] - beside[i]), 2);
      size += want * want;
    }
    // 8 bits of inputs, and of weights where the format has no layout of its own; from 65 rows on
    // bf16 instead, where the CPU goes on with 8 bits. Inputs between two codes may become either.
    EXPECT_LE(std::sqrt(error / size), 0.03) << n << " rows";
    EXPECT_LE(std::sqrt(to_cpu / size), n <= 64 ? 1e-4 + tie : 0.03) << n << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaFormat,
                         ::testing::Values("gptq", "gptq-asymmetric-g64", "gptq-act-order",
                                           "gptq-8-bits-rows", "gptq-v2", "awq", "pack-4",
                                           "pack-4-asymmetric", "pack-8-rows", "int8", "fp8",
                                           "fp8-block", "nf4", "nf4-double", "bnb-int8"),
                         [](const auto& format) {
                           std::string name = format.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace deltacome
