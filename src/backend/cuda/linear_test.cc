// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <limits>

#include "backend/cuda/memory.h"
#include "backend/cuda/skinny.h"
#include "backend/cuda/test_support.h"

namespace deltacome::cuda {
namespace {

using namespace testing;

struct Case {
  DType dtype;
  int64_t n_rows, n_in;
  std::vector<int64_t> n_out;  // of the targets
};

class LinearTest : public CudaTest {
 protected:
  std::vector<std::vector<float>> run(Device& device, const std::vector<HostTensor>& weights,
                                      const std::vector<HostTensor>& biases, int64_t n_rows,
                                      const std::vector<float>& x, int64_t extra_columns) {
    const auto plan = device.base_plan(n_rows);
    const int64_t n_in = static_cast<int64_t>(x.size()) / n_rows;
    std::vector<Guarded> outputs;
    std::vector<LinearTarget> targets;
    for (size_t i = 0; i < weights.size(); ++i) {
      outputs.emplace_back(device, n_rows, weights[i].rows() + extra_columns);
      LinearTarget target;
      target.slot = 2 * static_cast<int>(i);
      target.weight = device.backend->import_projection(weights[i], WeightFormat::kStored);
      if (!biases.empty()) {
        target.bias_slot = target.slot + 1;
        target.bias = device.backend->import_weight(biases[i]);
      }
      target.y = outputs.back().tensor();
      targets.push_back(std::move(target));
    }
    const Tensor in = device.put({n_rows, n_in}, x);
    device.backend->linear(*device.stream, *plan, in, targets);
    std::vector<std::vector<float>> out;
    for (const Guarded& output : outputs) out.push_back(output.get());
    return out;
  }

  void check(const Case& c, bool bias, int64_t extra_columns) {
    // Inputs that the weights' type holds: the GPU rounds them to it, the CPU does not.
    const std::vector<float> x = rounded(c.dtype, random_floats(rng_, c.n_rows * c.n_in));
    std::vector<HostTensor> weights, biases, abs_weights, abs_biases;
    for (const int64_t n : c.n_out) {
      const std::vector<float> w = rounded(c.dtype, random_floats(rng_, n * c.n_in, 0.1f));
      weights.push_back(host_tensor(c.dtype, {n, c.n_in}, w));
      abs_weights.push_back(host_tensor(c.dtype, {n, c.n_in}, magnitudes(w)));
      if (!bias) continue;
      const std::vector<float> b = rounded(c.dtype, random_floats(rng_, n));
      biases.push_back(host_tensor(c.dtype, {n}, b));
      abs_biases.push_back(host_tensor(c.dtype, {n}, magnitudes(b)));
    }
    const auto want = run(cpu_, weights, biases, c.n_rows, x, extra_columns);
    const auto size = run(cpu_, abs_weights, abs_biases, c.n_rows, magnitudes(x), extra_columns);
    const auto got = run(gpu(), weights, biases, c.n_rows, x, extra_columns);
    for (size_t t = 0; t < got.size(); ++t) {
      std::vector<double> bounds;
      for (size_t i = 0; i < got[t].size(); ++i) {
        const bool extra = static_cast<int64_t>(i) % (c.n_out[t] + extra_columns) >= c.n_out[t];
        bounds.push_back(extra ? 0 : 2 * gamma_k(c.n_in + 2) * static_cast<double>(size[t][i]));
      }
      expect_close(got[t], want[t], bounds,
                   std::string(dtype_name(c.dtype)) + " rows " + std::to_string(c.n_rows) + " in " +
                       std::to_string(c.n_in) + " target " + std::to_string(t));
    }
  }
};

TEST_F(LinearTest, FollowsTheCpuForFewRowsOfAnyType) {
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (const int64_t n_rows : {1, 2, 3, 7, 8, 9, 15, 16}) {
      check({dtype, n_rows, 64, {16}}, false, 0);
      check({dtype, n_rows, 1384, {33, 1, 160}}, false, 0);
    }
    for (const int64_t n_in : {8, 24, 40, 128, 136, 1024, 4096, 11008})
      check({dtype, 5, n_in, {17, 48}}, false, 0);
  }
}

TEST_F(LinearTest, FollowsTheCpuForManyRows) {
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (const int64_t n_rows : {17, 33, 64, 127, 300})
      check({dtype, n_rows, 512, {96, 40}}, false, 0);
    check({dtype, 65, 1376, {1023, 257}}, false, 0);
  }
}

TEST_F(LinearTest, FollowsTheCpuForInputsThatDoNotAlign) {
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (const int64_t n_in : {1, 2, 3, 5, 7, 193}) {
      check({dtype, 3, n_in, {5, 34}}, true, 0);
      check({dtype, 35, n_in, {5}}, true, 0);
    }
  }
}

TEST_F(LinearTest, AddsBiasesAndLeavesColumnsBeyondTheBaseAlone) {
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (const int64_t n_rows : {1, 6, 20}) {
      check({dtype, n_rows, 128, {48, 20, 7}}, true, 0);
      check({dtype, n_rows, 128, {48, 20, 7}}, true, 3);
    }
  }
}

TEST_F(LinearTest, RowsThatAVariantAddedHaveBiasesOfTheirOwn) {
  const int64_t n_in = 40, n_base = 6, n_own = 9, n = 4;
  const HostTensor base = host_tensor(DType::kF32, {n_base, n_in}, random_floats(rng_, 6 * n_in));
  const HostTensor bias = host_tensor(DType::kBf16, {n_base}, random_floats(rng_, n_base));
  const HostTensor own = host_tensor(DType::kF32, {n_own, n_in}, random_floats(rng_, 9 * n_in));
  const HostTensor own_bias = host_tensor(DType::kF32, {n_own}, random_floats(rng_, n_own));
  const std::vector<float> x = random_floats(rng_, n * n_in);
  std::vector<std::vector<float>> results;
  for (Device* device : {&cpu_, &gpu()}) {
    const auto variant = device->backend->create_variant(2);
    for (const int slot : {0, 1}) {
      const HostTensor& tensor = slot == 0 ? own : own_bias;
      MatrixFormat format;
      format.codec = Codec::kRaw;
      format.shape = tensor.shape;
      format.raw_dtype = tensor.dtype;
      std::vector<std::byte> blob(static_cast<size_t>(layout_of(format).total_bytes));
      std::ranges::copy(tensor.bytes, blob.begin());
      const auto bytes = static_cast<int64_t>(blob.size());
      variant->set(slot, format, HostTensor::of(DType::kU8, {bytes}, std::move(blob)),
                   *device->stream);
    }
    device->stream->synchronize();
    const std::vector<VariantSegment> segments = {{nullptr, 1}, {variant, 2}, {nullptr, 1}};
    const auto plan = device->backend->plan_variants(segments);
    Guarded y(*device, n, n_own + 1);
    LinearTarget target;
    target.slot = 0;
    target.weight = device->backend->import_weight(base);
    target.bias_slot = 1;
    target.bias = device->backend->import_weight(bias);
    target.y = y.tensor();
    device->backend->linear(*device->stream, *plan, device->put({n, n_in}, x), {&target, 1});
    results.push_back(y.get());
  }
  for (int64_t row = 0; row < n; ++row) {
    const bool is_own = row == 1 || row == 2;
    for (int64_t col = 0; col <= n_own; ++col) {
      const auto i = static_cast<size_t>(row * (n_own + 1) + col);
      EXPECT_NEAR(results[1][i], results[0][i], 1e-4F) << row << ", " << col;
      if (col >= (is_own ? n_own : n_base)) {
        EXPECT_EQ(results[1][i], Guarded::kCanary) << col;
      }
    }
  }
}

TEST_F(LinearTest, MoreTargetsThanALaunchTakes) {
  check({DType::kBf16, 4, 256, {16, 32, 48, 64, 80, 96, 5}}, true, 1);
}

TEST_F(LinearTest, OneRealLayer) {
  check({DType::kBf16, 8, 4096, {4096, 1024, 1024}}, false, 0);
  check({DType::kF16, 1, 11008, {4096}}, false, 0);
  check({DType::kBf16, 40, 4096, {11008}}, false, 0);
}

TEST_F(LinearTest, FollowsTheCpuWhereTheInputIsCutIntoParts) {
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    for (const int64_t n_in : {1016, 1024, 1032, 2048, 4088, 4104, 5504, 11000})
      for (const int64_t n_rows : {1, 2, 8, 16}) check({dtype, n_rows, n_in, {17, 40}}, false, 1);
  }
}

TEST_F(LinearTest, ARowOfFewHasTheSameBitsInAnyCompany) {
  const int64_t n_out = 272;
  for (const int64_t n_in : {520, 4096, 11008}) {
    const std::vector<HostTensor> weight = {
        host_tensor(DType::kBf16, {n_out, n_in}, random_floats(rng_, n_out * n_in))};
    const int64_t most = kSkinnyRows;
    const std::vector<float> x = random_floats(rng_, most * n_in);
    const std::vector<float> all = run(gpu(), weight, {}, most, x, 0).front();
    for (int64_t n = 1; n < most; n += 2) {
      const std::vector<float> part(x.begin(), x.begin() + n * n_in);
      const std::vector<float> got = run(gpu(), weight, {}, n, part, 0).front();
      EXPECT_TRUE(std::equal(got.begin(), got.end(), all.begin())) << n << " of " << n_in;
    }
  }
}

/// Calls of several shapes behind one another, each of which begins before the one before ends.
TEST_F(LinearTest, CallsThatFollowEachOtherGiveTheSameBitsEachTimeAlsoAsAGraph) {
  struct Call {
    std::unique_ptr<VariantPlan> plan;
    Tensor x;
    std::vector<LinearTarget> targets;
    std::vector<float> want;  // of the last target
  };
  std::vector<Call> calls;
  for (const auto& [n_rows, n_in, n_out] : std::vector<std::array<int64_t, 3>>{
           {1, 4096, 4096}, {8, 4096, 1030}, {3, 11008, 4096}, {16, 2056, 700}, {2, 136, 40}}) {
    Call call;
    call.plan = gpu().base_plan(n_rows);
    call.x = gpu().put({n_rows, n_in}, random_floats(rng_, n_rows * n_in));
    for (int i = 0; i < 2; ++i) {
      LinearTarget target;
      target.slot = i;
      target.weight = gpu().backend->import_projection(
          host_tensor(DType::kBf16, {n_out, n_in}, random_floats(rng_, n_out * n_in)),
          WeightFormat::kStored);
      target.y = gpu().backend->allocate(DType::kF32, {n_rows, n_out});
      call.targets.push_back(target);
    }
    calls.push_back(std::move(call));
  }
  const auto multiply = [&](Call& call) {
    gpu().backend->linear(*gpu().stream, *call.plan, call.x, call.targets);
  };
  const auto expect_same = [&](const char* what) {
    for (const Call& call : calls)
      EXPECT_EQ(gpu().get(call.targets.back().y), call.want) << what << ", " << call.x.cols();
  };
  for (Call& call : calls) {  // each alone
    multiply(call);
    call.want = gpu().get(call.targets.back().y);
  }
  for (int i = 0; i < 20; ++i) std::ranges::for_each(calls, multiply);
  expect_same("in a row");

  const cudaStream_t stream = raw(*gpu().stream);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  DELTACOME_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < 3; ++i) std::ranges::for_each(calls, multiply);
  DELTACOME_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  DELTACOME_CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
  for (int i = 0; i < 5; ++i) {
    for (const Call& call : calls) {
      const Tensor& y = call.targets.back().y;
      DELTACOME_CUDA_CHECK(
          cudaMemsetAsync(bytes_of(y), 0xff, static_cast<size_t>(y.bytes()), stream));
    }
    DELTACOME_CUDA_CHECK(cudaGraphLaunch(replay, stream));
    expect_same("as a graph");
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
}

TEST_F(LinearTest, ADeterministicBackendGivesARowItsBitsInAnyCompany) {
  Device device(create_cuda_backend({.deterministic = true}));
  const int64_t n_in = 1024, n_out = 144, n = 75;
  const std::vector<float> x = random_floats(rng_, n * n_in);
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    const std::vector<HostTensor> weight = {
        host_tensor(dtype, {n_out, n_in}, random_floats(rng_, n_out * n_in))};
    const std::vector<float> all = run(device, weight, {}, n, x, 0).front();
    for (const int64_t row : {0, 15, 16, 74}) {
      const auto first = x.begin() + row * n_in;
      const std::vector<float> alone = run(device, weight, {}, 1, {first, first + n_in}, 0).front();
      EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.begin() + row * n_out)) << row;
    }
  }
}

TEST_F(LinearTest, InputsBeyondF16AreItsLargestNumber) {
  const std::vector<HostTensor> weight = {
      host_tensor(DType::kF16, {1, 8}, {1, 0, 0, 0, 0, 0, 0, 0})};
  for (const int64_t n_rows : {1, 24}) {
    std::vector<float> x(static_cast<size_t>(8 * n_rows), 0.0f);
    x[0] = 1e6f;
    EXPECT_EQ(run(gpu(), weight, {}, n_rows, x, 0).front().front(), 65504.0f);
  }
}

TEST_F(LinearTest, AProjectionAsBf16IsRoundedOnce) {
  const std::vector<float> w = random_floats(rng_, 24 * 64);
  const HostTensor stored = host_tensor(DType::kF32, {24, 64}, w);
  const Tensor as_bf16 = gpu().backend->import_projection(stored, WeightFormat::kBf16);
  EXPECT_EQ(as_bf16.dtype, DType::kBf16);
  const std::vector<uint16_t> got = gpu().get<uint16_t>(as_bf16);
  for (size_t i = 0; i < w.size(); ++i) ASSERT_EQ(got[i], float_to_bf16(w[i])) << i;
}

/// y of one matrix in a format, on a device.
std::vector<float> product(Device& device, const HostTensor& w, WeightFormat format, int64_t n,
                           const std::vector<float>& x) {
  LinearTarget target;
  target.weight = device.backend->import_projection(w, format);
  Guarded y(device, n, w.rows() + 3);
  target.y = y.tensor();
  const auto plan = device.base_plan(n);
  device.backend->linear(*device.stream, *plan, device.put({n, w.cols()}, x), {&target, 1});
  const std::vector<float> all = y.get();
  std::vector<float> out;
  for (int64_t r = 0; r < n; ++r) {
    const auto row = all.begin() + r * (w.rows() + 3);
    out.insert(out.end(), row, row + w.rows());
  }
  return out;
}
double relative_error(const std::vector<float>& got, const std::vector<double>& want) {
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - want[i], 2);
    size += want[i] * want[i];
  }
  return std::sqrt(error / size);
}

TEST_F(LinearTest, WeightsInCodesGiveWhatTheCpuGives) {
  for (const auto& [n_out, n_in] :
       std::vector<std::pair<int64_t, int64_t>>{{5, 7}, {70, 128}, {129, 300}, {33, 1057}}) {
    const HostTensor w =
        host_tensor(DType::kBf16, {n_out, n_in}, random_floats(rng_, n_out * n_in));
    const std::vector<float> values = w.to_float();
    for (const int64_t n : {1, 3, 8, 9, 17, 40, 70}) {
      const std::vector<float> x = random_floats(rng_, n * n_in);
      std::vector<double> exact;
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t o = 0; o < n_out; ++o) {
          double sum = 0;
          for (int64_t i = 0; i < n_in; ++i)
            sum += static_cast<double>(values[static_cast<size_t>(o * n_in + i)]) *
                   static_cast<double>(x[static_cast<size_t>(r * n_in + i)]);
          exact.push_back(sum);
        }
      }
      const std::vector<float> eight = product(gpu(), w, WeightFormat::kInt8, n, x);
      const std::vector<float> cpu = product(cpu_, w, WeightFormat::kInt8, n, x);
      // Up to 64 rows the CPU's arithmetic but for the order of sums; more see weights and inputs
      // as bf16 where the CPU sees inputs in 8 bits.
      EXPECT_LE(relative_error(eight, {cpu.begin(), cpu.end()}), n <= 64 ? 1e-4 : 0x1p-6)
          << n_out << " x " << n_in << ", " << n << " rows";
      EXPECT_LE(relative_error(eight, exact), 0.03);
      // A step of 16 levels over +-3 sigma: the square of the error is 0.012 of that of the
      // weights.
      const std::vector<float> four = product(gpu(), w, WeightFormat::kInt4, n, x);
      if (n * n_out <= 100) continue;  // too few for a mean
      EXPECT_LE(relative_error(four, exact), 0.2) << n << " rows";
      const std::vector<float> also_four = product(cpu_, w, WeightFormat::kInt4, n, x);
      EXPECT_LE(relative_error(four, {also_four.begin(), also_four.end()}), 0.05) << n << " rows";
    }
  }
}

TEST_F(LinearTest, WeightsThatAreNotFiniteHaveNoCodes) {
  std::vector<float> values = random_floats(rng_, 40 * 130);
  values[37 * 130 + 129] = std::numeric_limits<float>::infinity();
  const HostTensor w = host_tensor(DType::kBf16, {40, 130}, values);
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    try {
      gpu().backend->import_projection(w, format);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find("row 37"), std::string::npos) << error.what();
    }
  }
}

TEST_F(LinearTest, AnIntegerWeightIsRefusedByName) {
  const Tensor weight = gpu().backend->allocate(DType::kI32, {4, 8});
  const Tensor x = gpu().put({1, 8}, std::vector<float>(8, 1.0f));
  LinearTarget target;
  target.weight = weight;
  target.y = gpu().backend->allocate(DType::kF32, {1, 4});
  const auto plan = gpu().base_plan(1);
  try {
    gpu().backend->linear(*gpu().stream, *plan, x, {&target, 1});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("I32"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace deltacome::cuda
