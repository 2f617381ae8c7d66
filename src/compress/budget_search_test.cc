// SPDX-License-Identifier: Apache-2.0
#include "compress/budget_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace deltacome {
namespace {

/// The budget that the search ends with; 0 if none reaches the target.
double found(double target, const std::function<double(double)>& kl_at, int& tries) {
  BudgetSearch search(target);
  double best = 0;
  tries = 0;
  while (const auto bits = search.next()) {
    ++tries;
    if (search.tell(*bits, kl_at(*bits))) best = *bits;
  }
  return best;
}

TEST(BudgetSearch, EndsWithinFivePercentOfTheSmallest) {
  for (const double slope : {-1.0, -2.7, -5.0}) {
    for (const double target : {0.3, 0.05, 0.01, 0.002}) {
      const auto kl = [&](double bits) {  // bent as measured curves are
        return 0.1 * std::exp(slope * (bits - 0.6) - 0.2 * (bits - 0.6) * (bits - 0.6));
      };
      double smallest = 0.01;
      while (kl(smallest) > target) smallest += 0.001;
      int tries = 0;
      const double bits = found(target, kl, tries);
      if (smallest > 8) {
        EXPECT_EQ(bits, 0);
        continue;
      }
      EXPECT_LE(kl(bits), target);
      EXPECT_LE(bits, 1.05 * smallest + 0.005) << "slope " << slope << ", target " << target;
      EXPECT_LE(tries, 8);
    }
  }
}

TEST(BudgetSearch, SaysWhenNoBudgetReachesTheTarget) {
  int tries = 0;
  EXPECT_EQ(found(
                1e-9, [](double) { return 1e-3; }, tries),
            0);
  EXPECT_LE(tries, 8);
}

}  // namespace
}  // namespace deltacome
