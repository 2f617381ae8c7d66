// SPDX-License-Identifier: Apache-2.0
#include "deltacome/bench.h"

#include <gtest/gtest.h>

#include "deltacome/error.h"

namespace deltacome {
namespace {

TEST(Bench, ACountThatIsTooSmallIsNamed) {
  const auto message = [](const BenchOptions& options) -> std::string {
    try {
      bench_decode(options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return error.what();
    }
    return "";
  };
  BenchOptions options;
  options.n_variants = 0;
  EXPECT_EQ(message(options), "--variants 0: expected at least 1");
  options = {};
  options.context = -3;
  EXPECT_EQ(message(options), "--context -3: expected at least 0");
  options = {};
  options.repeats = 0;
  EXPECT_EQ(message(options), "--repeats 0: expected at least 1");
}

}  // namespace
}  // namespace deltacome
