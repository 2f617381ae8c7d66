// SPDX-License-Identifier: Apache-2.0
// TrainingOps::decode() of the GPU against the CPU's, which is quant's.
#include <gtest/gtest.h>

#include "backend/training_ops.h"
#include "delta_test_support.h"
#include "tests/support/gpu_test.h"

namespace deltacome::cuda {
namespace {

struct Decoded {
  std::vector<float> q, v;
};

Decoded decode_on(Backend& backend, const MatrixFormat& format, const HostTensor& blob) {
  const auto stream = backend.create_stream();
  const bool low_rank = format.codec == Codec::kLowRank;
  const Tensor q =
      backend.allocate(DType::kF32, {format.base_rows, low_rank ? format.rank() : format.n_in()});
  const Tensor v =
      low_rank ? backend.allocate(DType::kF32, {format.rank(), format.n_in()}) : Tensor{};
  backend.training().decode(*stream, format, backend.import_weight(blob), q, v);
  Decoded out;
  const auto get = [&](const Tensor& t, std::vector<float>& to) {
    if (t.empty()) return;
    to.resize(static_cast<size_t>(t.size()));
    backend.download(*stream, t, std::as_writable_bytes(std::span(to)));
  };
  get(q, out.q);
  get(v, out.v);
  return out;
}

class DecodeTest : public test::GpuTest<> {
 protected:
  void check(const MatrixFormat& format, const std::string& what) {
    const HostTensor blob = random_blob(rng_, format);
    const Decoded got = decode_on(*gpu_, format, blob), want = decode_on(*cpu_, format, blob);
    // Some factors, each rounded, and exp2 of gains; rotated values are sums of a block.
    const double block =
        format.codec == Codec::kVector ? static_cast<double>(format.vector.block) : 1;
    double largest = 0;
    for (const float x : want.q) largest = std::max(largest, std::abs(static_cast<double>(x)));
    compare(got.q, want.q, block > 1 ? gamma_k(16) * std::sqrt(block) * 4 * largest : 0, what);
    compare(got.v, want.v, 0, what + " V");
  }

 private:
  static void compare(const std::vector<float>& got, const std::vector<float>& want,
                      double absolute, const std::string& what) {
    ASSERT_EQ(got.size(), want.size()) << what;
    for (size_t i = 0; i < got.size(); ++i) {
      const double w = want[i];
      ASSERT_NEAR(static_cast<double>(got[i]), w, gamma_k(8) * std::abs(w) + absolute)
          << what << ", element " << i;
    }
  }

  std::unique_ptr<Backend> cpu_ = create_cpu_backend(2);
  Rng rng_{42};
};

TEST_F(DecodeTest, DenseCodesOfEveryWidthAndScaleBlock) {
  for (const int bits : {1, 2, 3, 4, 8, 16}) {
    for (const ArrayFormat& array :
         {ArrayFormat{bits, 1, 128}, {bits, 1, 0}, {bits, 0, 0}, {bits, 3, 5}, {bits, 0, 1}}) {
      check(dense_format(37, 193, array),
            fmt::format("{} bits, scales {} x {}", bits, array.scale_rows, array.scale_cols));
    }
  }
}

TEST_F(DecodeTest, TiersWithAndWithoutGains) {
  for (const bool gains : {false, true}) {
    MatrixFormat format;
    format.codec = Codec::kLowRank;
    format.shape = {70, 193};
    format.base_rows = 70;
    int64_t rank = 1;
    for (const int bits : {8, 3, 2, 1, 16, 4}) {
      format.tiers.push_back({rank, {bits, 1, 128}, {bits, 1, 128}});
      rank += 7;
    }
    format.tiers.push_back({5, {2, 1, 0}, {2, 1, 0}});
    format.row_gain = format.col_gain = gains;
    check(format, gains ? "gains" : "no gains");
  }
}

TEST_F(DecodeTest, VectorCodesOfEveryBook) {
  for (const int dim : {4, 6, 8, 12, 16}) {
    for (const int64_t n_in : {5, 64, 96, 1536}) {
      for (const bool gains : {false, true})
        check(cpu::testing::vector_format(19, n_in, dim, gains),
              fmt::format("dim {} of {}", dim, n_in));
    }
  }
}

}  // namespace
}  // namespace deltacome::cuda
