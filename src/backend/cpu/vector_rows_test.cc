// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/vector_rows.h"

#include "backend/cpu/gemm.h"
#include "backend/cpu/test_support.h"

namespace deltacome::cpu {
namespace {

using namespace testing;

using VectorRowsTest = EachIsa;
DELTACOME_FOR_EACH_ISA(VectorRowsTest);

TEST_P(VectorRowsTest, AnyTileIsBitwiseThatOfTheOracle) {
  for (const int dim : kBookDimensions) {
    for (const int64_t n_in : {1, 3, 15, 16, 17, 193, 2500}) {
      const MatrixFormat format = vector_format(7, n_in, dim, true);
      const HostTensor blob = random_blob(rng_, format);
      const std::vector<float> want = decode_rotated(format, blob.bytes);
      const VectorRows rows(format, layout_of(format), blob.bytes.data());
      const int64_t piece = rows.piece_cols();
      EXPECT_LE(piece, kInputBlock);
      EXPECT_GT(piece, kInputBlock - 48);
      for (int64_t first = 0; first < n_in; first += piece) {
        const int64_t n = std::min(piece, n_in - first);
        std::vector<float> out(static_cast<size_t>(3 * n) + 1, Guarded::kCanary);
        rows.decode(*GetParam(), {2, 3, first, n}, out.data());
        for (int64_t i = 0; i < 3; ++i) {
          for (int64_t j = 0; j < n; ++j)
            ASSERT_EQ(out[static_cast<size_t>(i * n + j)],
                      want[static_cast<size_t>((2 + i) * n_in + first + j)])
                << "dimension " << dim << " row " << i << " column " << first + j;
        }
        EXPECT_EQ(out.back(), Guarded::kCanary);
      }
    }
  }
}

}  // namespace
}  // namespace deltacome::cpu
