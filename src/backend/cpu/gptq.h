// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/compression_ops.h"
#include "core/thread_pool.h"
#include "linalg/dense.h"

namespace deltacome::cpu {

/// R with R^T R = H^-1 for the columns in `order`, each row divided by its diagonal element: after
/// column j is quantized with error e, row j times e is what the columns behind it must take over.
struct CpuGptqFactor final : GptqFactor {
  std::vector<int64_t> order;    // [n]
  std::vector<double> feedback;  // [n, n], unit upper triangular, in `order`
  std::vector<double> diagonal;  // [n] of the damped Hessian, in the columns' own order
  std::vector<double> pivots;    // [n], the diagonal of R that was divided out
};

std::unique_ptr<GptqFactor> factor_hessian(linalg::View h, std::span<const int64_t> order,
                                           double damp);
Quantized quantize(ThreadPool& pool, const Tensor& w, const CpuGptqFactor* factor,
                   std::span<const CodeSection> sections);

}  // namespace deltacome::cpu
