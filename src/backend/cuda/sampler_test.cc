// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "backend/cuda/test_support.h"

namespace deltacome::cuda {
namespace {

using namespace testing;

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

class SamplerTest : public CudaTest {
 protected:
  std::vector<int32_t> run(Device& device, int64_t width, const std::vector<float>& logits,
                           const std::vector<SampleParams>& params) {
    std::vector<int32_t> tokens(params.size(), -7);
    const Tensor t = device.put({static_cast<int64_t>(params.size()), width}, logits);
    device.backend->sample(*device.stream, t, params, tokens);
    return tokens;
  }
  void check(int64_t width, const std::vector<float>& logits,
             const std::vector<SampleParams>& params) {
    const std::vector<int32_t> want = run(cpu_, width, logits, params);
    const std::vector<int32_t> got = run(gpu(), width, logits, params);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i], want[i]) << "row " << i << " of " << got.size() << ", width " << width
                                 << ", temperature " << params[i].temperature << ", top_k "
                                 << params[i].top_k << ", top_p " << params[i].top_p << ", min_p "
                                 << params[i].min_p << ", uniform " << params[i].uniform;
    }
  }
  /// Parameters of every kind, mixed with greedy rows.
  std::vector<SampleParams> mix(int64_t n, int64_t width) {
    std::uniform_real_distribution<double> uniform(0, 1);
    std::vector<SampleParams> out;
    for (int64_t i = 0; i < n; ++i) {
      SampleParams p;
      p.temperature = std::vector<float>{0, 0.2f, 1, 1.7f}[static_cast<size_t>(i % 4)];
      p.top_k = std::vector<int>{0, 1, 2, 40, 5000}[static_cast<size_t>(i / 4 % 5)];
      p.top_p = std::vector<float>{1, 0, 0.5f, 0.95f}[static_cast<size_t>(i / 3 % 4)];
      p.min_p = std::vector<float>{0, 0, 0.1f, 1}[static_cast<size_t>(i / 7 % 4)];
      p.uniform = uniform(rng_);
      p.vocab_size = std::max<int64_t>(1, width - i % 3);
      out.push_back(p);
    }
    return out;
  }
};

TEST_F(SamplerTest, ChoosesTheTokensOfTheCpuForEveryMixOfParameters) {
  for (const int64_t width : {1, 2, 3, 7, 193, 1023, 1024, 1025, 4096, 32001, 152064}) {
    const int64_t n = width > 10000 ? 24 : 160;
    check(width, random_floats(rng_, n * width, 3), mix(n, width));
  }
}

TEST_F(SamplerTest, TiesGoByTheId) {
  const int64_t width = 2500, n = 160;
  std::vector<float> logits = random_floats(rng_, n * width);
  for (float& v : logits) v = std::round(v);  // some ten values, zeros of both signs
  check(width, logits, mix(n, width));
  check(width, std::vector<float>(logits.size(), 0.5f), mix(n, width));
}

TEST_F(SamplerTest, WhatIsNoNumberIsNeverChosen) {
  const std::vector<std::vector<float>> rows = {
      {kNan, 1, kNan, 2},      {0, kInf, 1, kInf},       {-kInf, -kInf, -kInf, -kInf},
      {-kInf, 3, kNan, -kInf}, {kNan, kNan, kNan, kNan}, {kNan, -kInf, kNan, kNan}};
  for (const std::vector<float>& row : rows) {
    for (const float temperature : {0.0f, 1.0f}) {
      for (const double u : {0.0, 0.5, 0.999}) {
        check(4, row, {{.temperature = temperature, .uniform = u, .vocab_size = 4}});
        check(4, row, {{.temperature = temperature, .top_p = 0.5f, .uniform = u, .vocab_size = 4}});
      }
    }
  }
}

TEST_F(SamplerTest, WeightsThatVanishAreNoCandidates) {
  std::vector<float> logits(300, -2000.0f);  // exp(-2000) is 0
  logits[7] = 0;
  logits[200] = -1;
  for (const double u : {0.0, 0.6, 0.74, 0.9999})
    check(300, logits, {{.temperature = 1, .top_k = 100, .uniform = u, .vocab_size = 300}});
}

}  // namespace
}  // namespace deltacome::cuda
