// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/test_support.h"

namespace deltacome::cuda {
namespace {

using namespace testing;

class RowsTest : public CudaTest {};

TEST_F(RowsTest, RmsNormFollowsTheCpuOnEveryPiece) {
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (const int64_t d : {1, 2, 3, 5, 7, 64, 127, 128, 129, 193, 1020, 4096, 5120}) {
      for (const int64_t pieces : {1, 3}) {
        const int64_t n = 5;
        const HostTensor weight = host_tensor(dtype, {d}, random_floats(rng_, d));
        const std::vector<float> x = random_floats(rng_, n * pieces * d);
        std::vector<std::vector<float>> results;
        for (Device* device : {&cpu_, &gpu()}) {
          const auto plan = device->base_plan(n);
          Guarded y(*device, n, pieces * d);
          device->backend->rms_norm(*device->stream, *plan, 0, device->put({n, pieces * d}, x),
                                    device->backend->import_weight(weight), 1e-5, y.tensor());
          results.push_back(y.get());
        }
        std::vector<double> bounds;
        for (const float want : results[0])
          bounds.push_back(2 * gamma_k(d + 8) * std::abs(static_cast<double>(want)));
        expect_close(results[1], results[0], bounds, "d " + std::to_string(d));
      }
    }
  }
}

TEST_F(RowsTest, RmsNormWorksInPlace) {
  const int64_t n = 3, d = 384;
  const HostTensor weight = host_tensor(DType::kBf16, {d}, random_floats(rng_, d));
  const std::vector<float> x = random_floats(rng_, n * d);
  const auto plan = gpu().base_plan(n);
  const Tensor w = gpu().backend->import_weight(weight), in = gpu().put({n, d}, x);
  const Tensor out = gpu().backend->allocate(DType::kF32, {n, d});
  gpu().backend->rms_norm(*gpu().stream, *plan, 0, in, w, 1e-6, out);
  gpu().backend->rms_norm(*gpu().stream, *plan, 0, in, w, 1e-6, in);
  EXPECT_EQ(gpu().get(in), gpu().get(out));
}

TEST_F(RowsTest, EmbedReadsTheRowsOfTheTable) {
  const int64_t n_ids = 97;
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (const int64_t width : {1, 21, 256, 1027}) {
      const HostTensor table =
          host_tensor(dtype, {n_ids, width}, random_floats(rng_, n_ids * width));
      const std::vector<int32_t> ids = {0, 96, 5, 5, 41, 0, 77};
      const auto n = static_cast<int64_t>(ids.size());
      const auto plan = gpu().base_plan(n);
      Guarded y(gpu(), n, width);
      gpu().backend->embed(*gpu().stream, *plan, 0, ids, gpu().backend->import_weight(table),
                           y.tensor());
      std::vector<float> want;
      for (const int32_t id : ids) {
        const std::vector<float> row = table.to_float(id, 1);
        want.insert(want.end(), row.begin(), row.end());
      }
      EXPECT_EQ(y.get(), want) << width;
    }
  }
}

TEST_F(RowsTest, EmbedRefusesIdsThatTheTableLacks) {
  const HostTensor table = host_tensor(DType::kF32, {3, 2}, {1, 2, 3, 4, 5, 6});
  const Tensor on_device = gpu().backend->import_weight(table);
  const Tensor y = gpu().backend->allocate(DType::kF32, {2, 2});
  const auto plan = gpu().base_plan(2);
  for (const int32_t bad : {-1, 3}) {
    const std::vector<int32_t> ids = {0, bad};
    EXPECT_THROW(gpu().backend->embed(*gpu().stream, *plan, 0, ids, on_device, y), Error) << bad;
  }
}

}  // namespace
}  // namespace deltacome::cuda
