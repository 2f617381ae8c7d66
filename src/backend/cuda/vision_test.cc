// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/test_support.h"
#include "backend/vision_ops.h"

namespace deltacome::cuda {
namespace {

using namespace testing;

/// Each op on both devices; the CPU's are compared with double precision in backend/cpu.
class VisionOpsTest : public CudaTest {
 protected:
  /// Largest difference of what `run` leaves in its [rows, cols].
  template <class Run>
  double difference(int64_t rows, int64_t cols, const Run& run) {
    std::vector<std::vector<float>> results;
    for (Device* device : {&cpu_, &gpu()}) {
      Guarded y(*device, rows, cols);
      run(*device, y.tensor());
      results.push_back(y.get());
    }
    double worst = 0;
    for (size_t i = 0; i < results[0].size(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(results[0][i] - results[1][i])));
    return worst;
  }
};

TEST_F(VisionOpsTest, LayerNormFollowsTheCpu) {
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (const int64_t d : {1, 2, 3, 7, 127, 128, 193, 1024, 1025}) {
      const HostTensor weight = host_tensor(dtype, {d}, random_floats(rng_, d));
      const HostTensor bias = host_tensor(dtype, {d}, random_floats(rng_, d));
      const std::vector<float> x = random_floats(rng_, 5 * d);
      const double worst = difference(5, d, [&](Device& device, const Tensor& y) {
        device.backend->vision().layer_norm(*device.stream, device.put({5, d}, x),
                                            device.backend->import_weight(weight),
                                            device.backend->import_weight(bias), 1e-5, y);
      });
      EXPECT_LE(worst, 2e-5 * std::sqrt(static_cast<double>(d))) << d;
    }
  }
}

TEST_F(VisionOpsTest, GelusFollowTheCpu) {
  const std::vector<float> x = random_floats(rng_, 70000);
  for (const Gelu form : {Gelu::kExact, Gelu::kTanh, Gelu::kQuick}) {
    std::vector<std::vector<float>> results;
    for (Device* device : {&cpu_, &gpu()}) {
      const Tensor y = device->put({1, 70000}, x);
      device->backend->vision().gelu(*device->stream, form, y);
      results.push_back(device->get(y));
    }
    for (size_t i = 0; i < x.size(); ++i)
      ASSERT_NEAR(results[1][i], results[0][i], 4e-6 * (1 + std::abs(x[i]))) << x[i];
  }
}

TEST_F(VisionOpsTest, FullAttentionFollowsTheCpu) {
  for (const auto& [n, heads, head_dim] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1},
                                           {2, 3, 5},
                                           {17, 4, 12},
                                           {65, 4, 32},
                                           {577, 16, 64},
                                           {300, 2, 300}}) {
    const int64_t width = heads * head_dim;
    const std::vector<float> q = random_floats(rng_, n * width), k = random_floats(rng_, n * width),
                             v = random_floats(rng_, n * width);
    const double worst =
        difference(n, width, [&, n = n, heads = heads](Device& device, const Tensor& out) {
          const Shape shape{n, width};
          device.backend->vision().full_attention(*device.stream, heads, device.put(shape, q),
                                                  device.put(shape, k), device.put(shape, v), out);
        });
    EXPECT_LE(worst, 1e-4) << n << " rows of " << heads << " x " << head_dim;
  }
}

}  // namespace
}  // namespace deltacome::cuda
