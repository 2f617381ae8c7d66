// SPDX-License-Identifier: Apache-2.0
#include "bench/synthetic.h"

#include <gtest/gtest.h>

namespace deltacome {
namespace {

TEST(Synthetic, DeltasTakeTheBitsThatWereAskedFor) {
  for (const Shape& shape : {Shape{2048, 2048}, Shape{512, 2048}, Shape{11008, 4096}}) {
    for (const char* kind : {"come", "auto", "vector", "dense"}) {
      const MatrixFormat format = synthetic_format(kind, 1, shape);
      const double bits = 8.0 * static_cast<double>(layout_of(format).total_bytes) /
                          static_cast<double>(element_count(shape));
      EXPECT_NEAR(bits, 1, 0.06) << kind << " " << to_string(shape);
    }
  }
}

TEST(Synthetic, TheSmallestMatricesHaveDeltasToo) {
  for (int64_t n = 1; n < 12; ++n) {
    for (const Shape& shape : {Shape{n, n}, Shape{n, 64}, Shape{64, n}}) {
      for (const char* kind : {"come", "auto"}) {
        for (const double bits : {0.1, 1.0, 20.0}) {
          const MatrixFormat format = synthetic_format(kind, bits, shape);  // validates it
          EXPECT_GE(format.rank(), 1) << kind << " " << to_string(shape);
          EXPECT_LE(format.rank(), n) << kind << " " << to_string(shape);
        }
      }
    }
  }
}

TEST(Synthetic, AVariantIsResidentInFivePercentMoreThanItsBlobs) {
  const auto backend = create_cpu_backend(1);
  const auto stream = backend->create_stream();
  const ModelConfig config = synthetic_config("1b", 1);
  for (const char* kind : {"come", "auto", "vector", "dense"}) {
    const SyntheticVariant variant =
        synthetic_variant(*backend, *stream, config, {.kind = kind, .seed = 3});
    EXPECT_LT(static_cast<double>(variant.device->resident_bytes()),
              1.05 * static_cast<double>(variant.bytes))
        << kind;
  }
}

}  // namespace
}  // namespace deltacome
