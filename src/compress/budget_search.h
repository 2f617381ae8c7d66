// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

namespace deltacome {

/// Looks for the smallest budget, in bits per weight, whose KL is at most a target: log KL is
/// nearly linear in the bits, so each next budget is where the line through the last two
/// measurements meets the target, kept inside of what is known to be too small and enough.
class BudgetSearch {
 public:
  explicit BudgetSearch(double target) : target_(target) {}
  /// The budget to measure next; nullopt when the smallest is known within 4 %, or after 8 tries.
  std::optional<double> next();
  /// The KL at `bits`; true if it is the smallest budget so far that reaches the target.
  bool tell(double bits, double kl);
  double last_bits() const noexcept { return bits_; }
  double last_kl() const noexcept { return kl_; }

 private:
  double target_;
  int tries_ = 0;
  double low_ = 0;                // too small
  std::optional<double> enough_;  // reaches the target
  double bits_ = 0, kl_ = 0;      // the last measurement
  double slope_ = -2.7;           // of log KL in bits; first as measured on the project's test bed
};

}  // namespace deltacome
