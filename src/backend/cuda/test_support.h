// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/test_support.h"
#include "core/host_tensor.h"
#include "deltacome/error.h"

namespace deltacome::cuda::testing {

using test::gamma_k;
using test::host_tensor;
using test::random_floats;
using test::Rng;

/// Values as a type holds them.
inline std::vector<float> rounded(DType dtype, const std::vector<float>& values) {
  const auto n = static_cast<int64_t>(values.size());
  return host_tensor(dtype, {n}, values).to_float();
}
inline std::vector<float> magnitudes(std::vector<float> values) {
  for (float& v : values) v = std::abs(v);
  return values;
}

/// A backend and its stream; tensors come and go as vectors.
struct Device {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;

  explicit Device(std::unique_ptr<Backend> b)
      : backend(std::move(b)), stream(backend->create_stream()) {}

  Tensor put(Shape shape, const std::vector<float>& values) {
    Tensor t = backend->allocate(DType::kF32, std::move(shape));
    backend->upload(*stream, std::as_bytes(std::span(values)), t);
    return t;
  }
  template <class T = float>
  std::vector<T> get(const Tensor& t) {
    std::vector<T> values(static_cast<size_t>(t.bytes()) / sizeof(T));
    backend->download(*stream, t, std::as_writable_bytes(std::span(values)));
    return values;
  }
  std::unique_ptr<VariantPlan> base_plan(int64_t n_rows) {
    const VariantSegment segment{nullptr, n_rows};
    return backend->plan_variants({&segment, 1});
  }
};

/// An output with a guard row before and behind it; every element starts as kCanary.
class Guarded {
 public:
  static constexpr float kCanary = -1234.5f;
  Guarded(Device& device, int64_t rows, int64_t cols)
      : device_(device),
        all_(device.put({rows + 2, cols},
                        std::vector<float>(static_cast<size_t>((rows + 2) * cols), kCanary))) {}
  Tensor tensor() const { return all_.slice(1, all_.rows() - 2); }
  /// The output's elements; fails the test if a guard was written to.
  std::vector<float> get() const {
    std::vector<float> values = device_.get(all_);
    const auto n = static_cast<std::ptrdiff_t>(all_.cols());
    const auto is_canary = [](float v) { return v == kCanary; };
    EXPECT_TRUE(std::all_of(values.begin(), values.begin() + n, is_canary)) << "row before";
    EXPECT_TRUE(std::all_of(values.end() - n, values.end(), is_canary)) << "row behind";
    return {values.begin() + n, values.end() - n};
  }

 private:
  Device& device_;
  Tensor all_;
};

/// The device under test beside the CPU, which is the oracle. Skipped without a device.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      gpu_ = std::make_unique<Device>(create_cuda_backend());
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }
  Device& gpu() { return *gpu_; }
  Device cpu_{create_cpu_backend(2)};
  Rng rng_{42};

 private:
  std::unique_ptr<Device> gpu_;
};

/// got[i] is within bounds[i] of want[i]; names the worst element.
inline void expect_close(const std::vector<float>& got, const std::vector<float>& want,
                         const std::vector<double>& bounds, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  ASSERT_EQ(got.size(), bounds.size()) << what;
  size_t worst = 0;
  double excess = -1;
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    const double by = error / std::max(bounds[i], 1e-300);
    if (!(by <= excess)) {
      worst = i;
      excess = by;
    }
    if (std::isnan(by)) break;
  }
  EXPECT_LE(excess, 1) << what << ": element " << worst << " of " << got.size() << " is "
                       << got[worst] << ", expected " << want[worst] << " within " << bounds[worst];
}

}  // namespace deltacome::cuda::testing
