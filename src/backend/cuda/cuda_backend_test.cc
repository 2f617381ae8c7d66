// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/support/gpu_test.h"

namespace deltacome {
namespace {

class CudaBackendTest : public test::GpuTest<> {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (gpu_ != nullptr) stream_ = gpu_->create_stream();
  }
  Tensor put(const std::vector<float>& values) {
    const Tensor tensor = gpu_->allocate(DType::kF32, {static_cast<int64_t>(values.size())});
    gpu_->upload(*stream_, std::as_bytes(std::span(values)), tensor);
    stream_->synchronize();
    return tensor;
  }
  std::vector<float> get(const Tensor& tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.size()));
    gpu_->download(*stream_, tensor, std::as_writable_bytes(std::span(values)));
    return values;
  }
  std::unique_ptr<Stream> stream_;
};

TEST_F(CudaBackendTest, ElementwiseOpsMatchTheHostAtOddSizes) {
  for (const size_t n : {1u, 2u, 7u, 193u, 1u << 20}) {
    std::vector<float> x(n), y(n);
    for (size_t i = 0; i < n; ++i) {
      x[i] = std::sin(static_cast<float>(i));
      y[i] = std::cos(static_cast<float>(i));
    }
    const Tensor a = put(x), b = put(y);
    gpu_->add(*stream_, a, b);
    const std::vector<float> sum = get(b);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(sum[i], x[i] + y[i]) << i;
    gpu_->silu_mul(*stream_, a, b, a);
    const std::vector<float> product = get(a);
    for (size_t i = 0; i < n; ++i) {
      const double want = x[i] / (1 + std::exp(-static_cast<double>(x[i]))) * sum[i];
      ASSERT_NEAR(product[i], want, 8 * 0x1p-24 * std::abs(want) + 1e-30) << i;  // expf, +, /, *
    }
  }
}

TEST_F(CudaBackendTest, ImportedWeightsKeepTheirBytes) {
  std::vector<float> values(1u << 22);
  std::iota(values.begin(), values.end(), 0.0f);
  const auto n = static_cast<int64_t>(values.size());
  const Tensor weight = gpu_->import_weight(HostTensor::of(DType::kF32, {n}, values));
  EXPECT_EQ(get(weight), values);
}

TEST_F(CudaBackendTest, RefusesADeviceThatIsNotThere) {
  EXPECT_THROW(create_cuda_backend({.index = -1}), Error);
  EXPECT_THROW(create_cuda_backend({.index = 1000}), Error);
}

TEST_F(CudaBackendTest, GatherRowsCopiesTheNamedRows) {
  std::vector<float> x(6 * 5);
  std::iota(x.begin(), x.end(), 0.0f);
  const Tensor from = put(x).reshaped({6, 5});
  const Tensor to = gpu_->allocate(DType::kF32, {3, 5});
  const std::vector<int32_t> rows{5, 0, 5};
  gpu_->gather_rows(*stream_, from, rows, to);
  const std::vector<float> got = get(to);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i], x[static_cast<size_t>(rows[i / 5]) * 5 + i % 5]);
  }
}

}  // namespace
}  // namespace deltacome
