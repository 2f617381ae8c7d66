// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "backend/cpu/linear_mix.h"
#include "backend/cuda/delta.h"
#include "backend/cuda/variant.h"
#include "backend/cuda/variant_plan.h"

namespace deltacome::cuda {

using cpu::testing::dense;
using cpu::testing::dense_format;
using cpu::testing::Entry;
using cpu::testing::gamma_k;
using cpu::testing::host_tensor;
using cpu::testing::low_rank;
using cpu::testing::Mix;
using cpu::testing::MixedBatch;
using cpu::testing::Oracle;
using cpu::testing::random_blob;
using cpu::testing::random_floats;
using cpu::testing::raw_format;
using cpu::testing::Rng;
using cpu::testing::tier;
using cpu::testing::vector_format;
using cpu::testing::with_gains;

/// A device, its memory and a stream; skips where there is none.
class DeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no CUDA device";
    context_.device = 0;
    context_.activate();
    cudaDeviceProp properties{};
    ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
    context_.n_sms = properties.multiProcessorCount;
    context_.l2_bytes = properties.l2CacheSize;
    context_.overlaps = properties.major >= 9;
    context_.memory = std::make_shared<DeviceMemory>(0, int64_t{8} << 30);
    context_.decode_rows = DecodeRows::never();  // delta_prompt_test.cc asks for it
    stream_ = std::make_unique<CudaStream>(context_.memory);
  }
  Tensor put(Shape shape, const std::vector<float>& values) {
    const Tensor t = context_.allocate(DType::kF32, std::move(shape), Purpose::kWeights);
    stream_->upload(std::as_bytes(std::span(values)), bytes_of(t));
    return t;
  }
  std::vector<float> get(const Tensor& tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.size()));
    stream_->download(bytes_of(tensor), std::as_writable_bytes(std::span(values)));
    return values;
  }

  CudaContext context_;
  std::unique_ptr<CudaStream> stream_;
  Rng rng_{42};
};

/// An output with a guard row before and behind it. Every element starts as some value of its own,
/// as if a product with the base had been written.
struct GuardedOutput {
  int64_t rows = 0, cols = 0;
  std::vector<float> before;  // [rows + 2, cols]
  Tensor all;

  GuardedOutput(Rng& rng, int64_t n_rows, int64_t n_cols)
      : rows(n_rows), cols(n_cols), before(random_floats(rng, (n_rows + 2) * n_cols)) {}
  Tensor tensor() const { return all.slice(1, rows); }
  float was(int64_t row, int64_t col) const {
    return before[static_cast<size_t>((row + 1) * cols + col)];
  }
};

}  // namespace deltacome::cuda
