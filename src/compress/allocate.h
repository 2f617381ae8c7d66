// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quant/format.h"

namespace deltacome {

/// What is known of a projection before it is coded: d [n_out, n_in] its delta, C = E[x x^T] per
/// token.
struct MatrixCurve {
  std::string name;
  Shape shape;
  double sensitivity = 1;  // KL of the model's output per unit of this output's squared error
  double energy = 0;       // tr(d C d^T)
  std::vector<double> components;  // s_i^2 v_i C v_i^T, largest first
  /// What the measured KL of a family of codes is to the one predicted; 0 = not to be used.
  double low_rank_weight = 1, whole_weight = 1;
};

/// Squared error, over the energy, of a code of relative error e once its gains have made it
/// unbiased: q / (1 - e) with |q|^2 = (1 - e) |d|^2 has the error 1 / (1 - e) - 1. What is dropped
/// counts so too, and no code at all is ten times its energy: a bias adds up over the layers.
double unbiased_error(double e);

struct AllocationRules {
  bool column_gains = false;  // one byte per input, for distillation
  uint64_t rotation_seed = 0;
};

/// One matrix's part of a plan.
struct Allocated {
  std::optional<MatrixFormat> format;  // nullopt: nothing is stored
  double loss = 0;                     // predicted KL
};

/// One budget over all matrices: the formats of least predicted KL whose blobs are at most
/// `budget_bytes` together, everything counted. Reverse water-filling by a Lagrangian over all
/// components and all matrices: a matrix takes no code, a vector code, a dense code, or tiers of
/// components, each with the pair of widths (V, U) that is worth its bytes; what is left goes to
/// the best single steps. Ranks are multiples of 8 where the matrix is large enough.
/// Ref: Cover and Thomas, Elements of Information Theory, 10.3.3; Everett, Operations Research 11.
std::vector<Allocated> allocate(const std::vector<MatrixCurve>& curves, int64_t budget_bytes,
                                const AllocationRules& rules);

}  // namespace deltacome
