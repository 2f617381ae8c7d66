// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "backend/compression_ops.h"

namespace deltacome {

/// The first components of d = U diag(s) V. u_t [rank, n_out] and v [rank, n_in] f64, one component
/// a row, unit norm.
struct Svd {
  Tensor u_t, v;
  std::vector<double> s;    // [rank]
  double squared_norm = 0;  // |d|_F^2
  double kept = 0;          // sum of s^2 over the kept components
};

/// Through the Gram matrix of the smaller side and its symmetric eigensolver in float64; the other
/// side's vectors are a projection of d. Throws kInternal if the eigenvalues do not add up to
/// |d|_F^2 or the computed vectors leave the residual |d|^2 - sum s^2 larger than the dropped
/// eigenvalues explain.
Svd svd(Backend& backend, Stream& stream, const Tensor& d, int64_t rank);

}  // namespace deltacome
