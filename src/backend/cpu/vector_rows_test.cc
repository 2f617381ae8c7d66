// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/vector_rows.h"

#include "backend/cpu/test_support.h"
#include "quant/vector_codes.h"

namespace deltacome::cpu {
namespace {

using namespace testing;

class VectorRowsTest : public EachIsa {
 protected:
  /// Rows [64, n_out) of a code times n inputs, which are rotated already, against
  /// decode_rotated().
  void check(int64_t n_out, int64_t n_in, int dim, int64_t n, const std::vector<float>& x) {
    const MatrixFormat format = vector_format(n_out, n_in, dim, false);
    const HostTensor blob = random_blob(rng_, format);
    const std::vector<float> w = decode_rotated(format, blob.bytes);
    const VectorRows rows(format, layout_of(format), blob.bytes.data());
    std::vector<float> row_scale(static_cast<size_t>(n_out));
    convert_to_float(blob.bytes.data() + layout_of(format).row_scale.offset, DType::kF16,
                     row_scale);
    QuantizedRows quantized(n, n_in, dim);
    std::vector<const QuantizedRow*> inputs;
    Guarded y(backend_, n, n_out);
    std::vector<float*> outputs;
    for (int64_t t = 0; t < n; ++t) {
      quantized.set(*GetParam()->packed, t, x.data() + t * n_in, nullptr);
      inputs.push_back(&quantized.row(t));
      outputs.push_back(f32(y.tensor()) + t * n_out);
      std::fill_n(outputs.back() + kEntryRows, n_out - kEntryRows, 0.0f);
    }
    rows.multiply(*GetParam()->packed, kEntryRows, n_out - kEntryRows, inputs, outputs.data());
    for (int64_t t = 0; t < n; ++t) {
      const Activations input =
          quantized_entries({x.data() + t * n_in, static_cast<size_t>(n_in)}, dim);
      for (int64_t o = 0; o < n_out; ++o) {
        if (o < kEntryRows) {
          ASSERT_EQ(y.at(t, o), Guarded::kCanary);
          continue;
        }
        double want = 0;
        for (int64_t i = 0; i < n_in; ++i)
          want += static_cast<double>(w[static_cast<size_t>(o * n_in + i)]) *
                  input.values[static_cast<size_t>(i)];
        const double range =
            255.0 / 32 * std::abs(static_cast<double>(row_scale[static_cast<size_t>(o)]));
        ASSERT_NEAR(y.at(t, o), want, code_slack(input, range))
            << "dimension " << dim << " inputs " << n_in << " row " << o << " token " << t;
      }
    }
    EXPECT_TRUE(y.intact());
  }
};
DELTACOME_FOR_EACH_ISA(VectorRowsTest);

TEST_P(VectorRowsTest, ProductsAreThoseOfTheDecodedEntries) {
  for (const int dim : kBookDimensions) {
    for (const int64_t n_in : {1, 3, 15, 16, 17, 193, 2500}) {
      for (const auto& [n_out, n] :
           {std::pair<int64_t, int64_t>{71, 1}, {64 + 256 + 48, 2}, {80, 13}})
        check(n_out, n_in, dim, n, random_floats(rng_, n * n_in));
    }
  }
}

// More rows than are summed at a time, and not a whole number of blocks.
TEST_P(VectorRowsTest, RowsOfManyBlocks) {
  check(64 + 1100, 600, 8, 1, random_floats(rng_, 600));
}

// Every activation at the end of its range: sums of a block are as large as they get.
TEST_P(VectorRowsTest, ConstantInputsDoNotOverflow) {
  for (const int dim : kBookDimensions) {
    for (const int64_t n_in : {1024, 1536}) {
      for (const int64_t n : {2, 4}) {
        std::vector<float> x(static_cast<size_t>(n * n_in), 1);
        std::fill(x.begin() + n_in, x.end(), -1.0f);
        check(100, n_in, dim, n, x);
      }
    }
  }
}

// An entry's own signs as its input make the largest sum that there is.
TEST_P(VectorRowsTest, LargestSumsOfEntriesFit) {
  for (const int dim : kBookDimensions) {
    const std::span<const int8_t> book = code_book(dim);
    std::vector<float> x;
    for (size_t c = 0; c < 256; ++c) {
      for (size_t p = 0; p < static_cast<size_t>(dim); ++p)
        x.push_back(book[c * static_cast<size_t>(dim) + p] < 0 ? -1.0f : 1.0f);
    }
    check(80, static_cast<int64_t>(x.size()), dim, 1, x);
  }
}

// The same bits, however many tokens there are.
TEST_P(VectorRowsTest, ARowDoesNotDependOnTheNumberOfTokens) {
  const int64_t n_in = 900, n_out = 200;
  for (const int dim : kBookDimensions) {
    const MatrixFormat format = vector_format(n_out, n_in, dim, false);
    const HostTensor blob = random_blob(rng_, format);
    const VectorRows rows(format, layout_of(format), blob.bytes.data());
    const std::vector<float> x = random_floats(rng_, n_in);
    std::vector<float> want;
    for (const int64_t n : {1, 2, 3, 4, 7, 16}) {
      QuantizedRows quantized(n, n_in, dim);
      std::vector<const QuantizedRow*> inputs;
      std::vector<float> y(static_cast<size_t>(n * n_out));
      std::vector<float*> outputs;
      for (int64_t t = 0; t < n; ++t) {
        quantized.set(*GetParam()->packed, t, x.data(), nullptr);
        inputs.push_back(&quantized.row(t));
        outputs.push_back(y.data() + t * n_out);
      }
      rows.multiply(*GetParam()->packed, 0, n_out, inputs, outputs.data());
      if (want.empty()) want.assign(y.begin(), y.begin() + n_out);
      for (int64_t i = 0; i < n * n_out; ++i)
        ASSERT_EQ(y[static_cast<size_t>(i)], want[static_cast<size_t>(i % n_out)])
            << dim << " " << n << " " << i;
    }
  }
}

}  // namespace
}  // namespace deltacome::cpu
