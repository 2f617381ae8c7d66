// SPDX-License-Identifier: Apache-2.0
#include "compress/budget_search.h"

#include <algorithm>
#include <cmath>

namespace deltacome {
namespace {

constexpr double kFirst = 1, kLargest = 8;  // bits
constexpr double kTolerance = 0.04;         // of the budget
constexpr double kAim = 0.97;               // of the target, so that noise does not miss it
constexpr int kTries = 8;
constexpr double kFlattest = -0.5, kSteepest = -8;  // slopes that are believed

}  // namespace

std::optional<double> BudgetSearch::next() {
  if (tries_ == kTries) return std::nullopt;
  if (tries_ == 0) return kFirst;
  if (enough_ && *enough_ - low_ <= kTolerance * *enough_) return std::nullopt;
  if (!enough_ && low_ >= kLargest) return std::nullopt;
  double bits = bits_ + std::log(kAim * target_ / std::max(kl_, 1e-12)) / slope_;
  if (enough_) {
    // Not nearer to either end than a step that ends the search.
    const double step = 0.8 * kTolerance * *enough_;
    bits = *enough_ - low_ > 2 * step ? std::clamp(bits, low_ + step, *enough_ - step)
                                      : (low_ + *enough_) / 2;
  } else {
    bits = std::clamp(bits, low_ * 1.05, kLargest);
  }
  return bits;
}

bool BudgetSearch::tell(double bits, double kl) {
  if (tries_ > 0 && bits != bits_ && kl > 0 && kl_ > 0)
    slope_ = std::clamp(std::log(kl / kl_) / (bits - bits_), kSteepest, kFlattest);
  ++tries_;
  bits_ = bits;
  kl_ = kl;
  if (kl > target_) {
    if (!enough_ || bits < *enough_) low_ = std::max(low_, bits);
    return false;
  }
  if (enough_ && *enough_ <= bits) return false;
  enough_ = bits;
  return true;
}

}  // namespace deltacome
