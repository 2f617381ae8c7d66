// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/compression_ops.h"
#include "backend/cuda/blas.h"

namespace deltacome::cuda {

/// As the CPU's: R with R^T R = H^-1 for the columns in `order`, each row divided by its diagonal
/// element.
struct CudaGptqFactor final : GptqFactor {
  int64_t n = 0;
  Tensor order;     // i64 [n], as bytes
  Tensor feedback;  // f64 [n, n], unit upper triangular, in `order`
  Tensor diagonal;  // f64 [n] of the damped Hessian, in the columns' own order
  Tensor pivots;    // f64 [n], the diagonal of R that was divided out
};

/// One Cholesky factorization of the Hessian in reversed order and the inverse of its triangle, in
/// f64.
std::unique_ptr<GptqFactor> factor_hessian(Blas& blas, const CudaContext& context,
                                           CudaStream& stream, const Tensor& h,
                                           std::span<const int64_t> order, double damp);
/// A launch for 64 columns of all rows, then a product for all columns behind them.
Quantized quantize(Blas& blas, const CudaContext& context, CudaStream& stream, const Tensor& w,
                   const CudaGptqFactor* factor, std::span<const CodeSection> sections);
VectorQuantized quantize_vectors(Blas& blas, const CudaContext& context, CudaStream& stream,
                                 const Tensor& w, const CudaGptqFactor* factor, int dim);

}  // namespace deltacome::cuda
