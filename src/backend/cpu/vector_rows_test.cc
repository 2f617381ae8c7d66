// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/vector_rows.h"

#include "backend/cpu/test_support.h"

namespace deltacome::cpu {
namespace {

using namespace testing;

class VectorRowsTest : public EachIsa {
 protected:
  /// Rows [2, 7) of a code times two inputs, which are rotated already, against decode_rotated().
  void check(int64_t n_in, int dim, const std::vector<float>& x) {
    const MatrixFormat format = vector_format(7, n_in, dim, false);
    const HostTensor blob = random_blob(rng_, format);
    const std::vector<float> w = decode_rotated(format, blob.bytes);
    const VectorRows rows(format, layout_of(format), blob.bytes.data());
    std::vector<float> row_scale(7);
    convert_to_float(blob.bytes.data() + layout_of(format).row_scale.offset, DType::kF16,
                     row_scale);
    QuantizedRows quantized(2, n_in, dim);
    std::vector<const QuantizedRow*> inputs;
    Guarded y(backend_, 2, 7);
    std::vector<float*> outputs;
    for (int64_t t = 0; t < 2; ++t) {
      quantized.set(*GetParam()->packed, t, x.data() + t * n_in, nullptr);
      inputs.push_back(&quantized.row(t));
      outputs.push_back(f32(y.tensor()) + t * 7);
      std::fill_n(outputs.back() + 2, 5, 0.0f);
    }
    rows.multiply(*GetParam()->packed, 2, 5, inputs, outputs.data());
    for (int64_t t = 0; t < 2; ++t) {
      const Activations input = testing::quantized({x.data() + t * n_in, static_cast<size_t>(n_in)},
                                                   int64_t{kEntryBlock} * dim);
      for (int64_t o = 2; o < 7; ++o) {
        double want = 0;
        for (int64_t i = 0; i < n_in; ++i)
          want += static_cast<double>(w[static_cast<size_t>(o * n_in + i)]) *
                  input.values[static_cast<size_t>(i)];
        const double range =
            255.0 / 32 * std::abs(static_cast<double>(row_scale[static_cast<size_t>(o)]));
        ASSERT_NEAR(y.at(t, o), want, code_slack(input, range))
            << "dimension " << dim << " inputs " << n_in << " row " << o;
      }
      EXPECT_EQ(y.at(t, 0), Guarded::kCanary);
      EXPECT_EQ(y.at(t, 1), Guarded::kCanary);
    }
    EXPECT_TRUE(y.intact());
  }
};
DELTACOME_FOR_EACH_ISA(VectorRowsTest);

TEST_P(VectorRowsTest, ProductsAreThoseOfTheDecodedEntries) {
  for (const int dim : kBookDimensions) {
    for (const int64_t n_in : {1, 3, 15, 16, 17, 193, 2500})
      check(n_in, dim, random_floats(rng_, 2 * n_in));
  }
}

// Every activation at the end of its range: sums of a block are as large as they get.
TEST_P(VectorRowsTest, ConstantInputsDoNotOverflow) {
  for (const int dim : kBookDimensions) {
    for (const int64_t n_in : {1024, 1536}) {
      std::vector<float> x(static_cast<size_t>(2 * n_in), 1);
      std::fill(x.begin() + n_in, x.end(), -1.0f);
      check(n_in, dim, x);
    }
  }
}

}  // namespace
}  // namespace deltacome::cpu
