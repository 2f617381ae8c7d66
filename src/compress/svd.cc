// SPDX-License-Identifier: Apache-2.0
#include "compress/svd.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/check.h"

namespace deltacome {
namespace {

constexpr double kResidualTolerance =
    1e-8;  // of |d|_F^2; dsyevd and the Gram product stay near 1e-13

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

}  // namespace

Svd svd(Backend& backend, Stream& stream, const Tensor& d, int64_t rank) {
  CompressionOps& ops = backend.compression();
  const bool wide = d.rows() < d.cols();
  const int64_t n = std::min(d.rows(), d.cols()), other = std::max(d.rows(), d.cols());
  DELTACOME_CHECK(rank > 0 && rank <= n);
  Svd out;
  out.squared_norm = sum(ops.row_dots(stream, d, d));

  Tensor gram = backend.allocate(DType::kF64, {n, n});
  ops.matmul(stream, d, !wide, d, wide, gram);  // d d^T if wide, else d^T d
  const std::vector<double> eigenvalues = ops.eigh(stream, gram);
  const Tensor near = backend.allocate(DType::kF64, {rank, n});  // vectors of the smaller side
  ops.copy(stream, gram.slice(0, rank), near);
  gram = {};  // frees those that are dropped
  const Tensor far = backend.allocate(DType::kF64, {rank, other});
  ops.matmul(stream, near, false, d, !wide, far);  // rows s_i * (the other side's vector)
  const std::vector<double> squares = ops.row_dots(stream, far, far);

  const double tolerance = kResidualTolerance * out.squared_norm;
  const double dropped = std::accumulate(eigenvalues.begin() + rank, eigenvalues.end(), 0.0);
  out.kept = sum(squares);
  if (std::abs(sum(eigenvalues) - out.squared_norm) > tolerance ||
      std::abs(out.squared_norm - out.kept - dropped) > tolerance) {
    fail(ErrorCode::kInternal,
         "decomposition of a {} delta: |d|^2 = {:.9g}, eigenvalues add up to {:.9g}, kept {:.9g} + "
         "dropped {:.9g}",
         to_string(d.shape), out.squared_norm, sum(eigenvalues), out.kept, dropped);
  }
  std::vector<double> inverse;
  for (const double square : squares) {
    out.s.push_back(std::sqrt(square));
    inverse.push_back(square > 0 ? 1 / out.s.back() : 0);
  }
  ops.scale(stream, far, inverse, {});
  out.u_t = wide ? near : far;
  out.v = wide ? far : near;
  return out;
}

}  // namespace deltacome
