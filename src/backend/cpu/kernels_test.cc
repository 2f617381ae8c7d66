// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/kernels.h"

#include <algorithm>
#include <bit>

#include "backend/cpu/coded_rows.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/test_support.h"

namespace deltacome::cpu {
namespace {

using namespace testing;

using KernelsTest = EachIsa;
DELTACOME_FOR_EACH_ISA(KernelsTest);

const std::vector<int64_t> kSizes = {1, 2, 3, 5, 7, 15, 16, 17, 64, 127, 129, 193};

TEST_P(KernelsTest, ConvertsEveryHalfAndBfloat16Exactly) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<float> out(bits.size());
  for (const WeightType type : {WeightType::kBf16, WeightType::kF16}) {
    GetParam()->convert(type, bits.data(), 65536, out.data());
    for (size_t i = 0; i < bits.size(); ++i) {
      const float want = type == WeightType::kBf16 ? bf16_to_float(bits[i]) : f16_to_float(bits[i]);
      if (std::isnan(want)) {
        EXPECT_TRUE(std::isnan(out[i])) << i;
      } else {
        EXPECT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(want)) << i;
      }
    }
  }
}

TEST_P(KernelsTest, DecodesBitwiseAsTheScalarCodec) {
  for (const int bits : {1, 2, 3, 4, 8, 16}) {
    for (const int64_t cols : kSizes) {
      for (const auto& [scale_rows, scale_cols] : std::vector<std::pair<int64_t, int64_t>>{
               {1, 128}, {1, 0}, {0, 1}, {3, 1}, {2, 5}, {0, 0}}) {
        const int64_t rows = 7;
        const ArrayFormat format{bits, scale_rows, scale_cols};
        const MatrixFormat matrix{.codec = Codec::kDense,
                                  .shape = {rows, cols},
                                  .base_rows = rows,
                                  .dense = format,
                                  .tiers = {}};
        const HostTensor blob = random_blob(rng_, matrix);
        const std::vector<float> want = decode_delta(matrix, blob.bytes).v;
        const CodedRows coded(format, rows, cols, layout_of(matrix).dense, blob.bytes.data());
        for (const int64_t first : {int64_t{0}, int64_t{16}, int64_t{112}}) {
          if (first >= cols) continue;
          const int64_t n = cols - first;
          std::vector<float> out(static_cast<size_t>(5 * n + 1), Guarded::kCanary),
              scales(out.size());
          coded.decode(*GetParam(), {2, 5, first, n}, out.data(), n, scales.data());
          for (int64_t i = 0; i < 5 * n; ++i) {
            ASSERT_EQ(out[static_cast<size_t>(i)],
                      want[static_cast<size_t>((2 + i / n) * cols + first + i % n)])
                << bits << " bits, " << cols << " columns, element " << i;
          }
          EXPECT_EQ(out.back(), Guarded::kCanary);
        }
      }
    }
  }
}

TEST_P(KernelsTest, ProductsStayWithinTheRoundingBound) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16, DType::kF64}) {
    for (const int64_t n_in : {1, 2, 3, 5, 7, 127, 129, 193, 1025, 2100}) {
      const int64_t n_out = 37, n = 11;
      const std::vector<float> x = random_floats(rng_, n * n_in);
      HostTensor w = random_tensor(rng_, dtype, {n_out, n_in});
      if (dtype == DType::kF64) {
        const std::vector<float> f = random_floats(rng_, n_out * n_in);
        w = HostTensor::of(dtype, {n_out, n_in}, std::vector<double>(f.begin(), f.end()));
      }
      const std::vector<float> wf = w.to_float();
      Guarded y(backend_, n, n_out);
      std::vector<const float*> xs;
      std::vector<float*> ys;
      for (int64_t r = 0; r < n; ++r) {
        xs.push_back(x.data() + r * n_in);
        ys.push_back(f32(y.tensor()) + r * n_out);
      }
      std::vector<float> scratch(static_cast<size_t>(multiply_scratch()));
      multiply(*GetParam(), {w.bytes.data(), dtype, n_out, n_in}, 0, n_out,
               {xs.data(), ys.data(), n}, 0, scratch.data());
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t o = 0; o < n_out; ++o) {
          double want = 0, magnitude = 0;
          for (int64_t i = 0; i < n_in; ++i) {
            const double p = static_cast<double>(x[static_cast<size_t>(r * n_in + i)]) *
                             static_cast<double>(wf[static_cast<size_t>(o * n_in + i)]);
            want += p;
            magnitude += std::abs(p);
          }
          EXPECT_NEAR(y.at(r, o), want, gamma_k(n_in) * magnitude) << r << " " << o;
        }
      }
      EXPECT_TRUE(y.intact());
    }
  }
}

TEST_P(KernelsTest, AccumulateStaysWithinTheRoundingBound) {
  for (const int64_t n_cols : kSizes) {
    const int64_t n_terms = 37, n = 8;
    const std::vector<float> z = random_floats(rng_, n * n_terms);
    const std::vector<float> u = random_floats(rng_, n_terms * n_cols);
    Guarded y(backend_, n, n_cols);
    std::vector<const float*> zs;
    std::vector<float*> ys;
    for (int64_t r = 0; r < n; ++r) {
      zs.push_back(z.data() + r * n_terms);
      ys.push_back(f32(y.tensor()) + r * n_cols);
      std::fill_n(ys.back(), n_cols, 1.0f);
    }
    GetParam()->accumulate({.z = zs.data(),
                            .n_rows = n,
                            .u = u.data(),
                            .u_stride = n_cols,
                            .n_terms = n_terms,
                            .n_cols = n_cols,
                            .y = ys.data()});
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t j = 0; j < n_cols; ++j) {
        double want = 1, magnitude = 1;
        for (int64_t c = 0; c < n_terms; ++c) {
          const double p = static_cast<double>(z[static_cast<size_t>(r * n_terms + c)]) *
                           static_cast<double>(u[static_cast<size_t>(c * n_cols + j)]);
          want += p;
          magnitude += std::abs(p);
        }
        EXPECT_NEAR(y.at(r, j), want, gamma_k(n_terms + 1) * magnitude);
      }
    }
    EXPECT_TRUE(y.intact());
  }
}

TEST_P(KernelsTest, SoftmaxSumsToTheReference) {
  for (const int64_t n : kSizes) {
    std::vector<float> s = random_floats(rng_, n, 20);
    const std::vector<float> in = s;
    const float largest = *std::max_element(in.begin(), in.end());
    const float sum = GetParam()->softmax(s.data(), n, 0.25f);
    double want_sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<size_t>(i);
      const double want =
          std::exp((static_cast<double>(in[at]) - static_cast<double>(largest)) / 4);
      EXPECT_NEAR(s[at], want, 4e-6 * want + 1e-37) << in[at];
      want_sum += want;
    }
    EXPECT_NEAR(sum, want_sum, 8e-6 * want_sum);
  }
}

TEST_P(KernelsTest, SiluStaysCloseToDouble) {
  const std::vector<float> gate = {-200, -90, -88, -20, -1, -1e-3f, 0, 1e-3f, 1,
                                   20,   88,  90,  200, 3,  4,      5, 6};
  const std::vector<float> up(gate.size(), 2);
  std::vector<float> out(gate.size());
  GetParam()->silu_mul(gate.data(), up.data(), static_cast<int64_t>(gate.size()), out.data());
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = gate[i];
    const double want = 2 * g / (1 + std::exp(-g));
    EXPECT_NEAR(out[i], want, 1e-6 * std::abs(want) + 1e-34) << g;
  }
}

}  // namespace
}  // namespace deltacome::cpu
