// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "backend/cuda/blas.h"

namespace deltacome::cuda {

/// TrainingOps::attention() and its backward: products of all heads of some queries with cuBLAS in
/// f32, the scores of 256 queries of one sequence in memory at a time.
struct SequenceAttention {
  Blas& blas;
  const CudaContext& context;
  CudaStream& stream;
  std::span<const int64_t> lengths;
  const AttentionShape& shape;
  const Tensor &q, &k, &v, &out;  // out: its gradient in the backward

  void forward() const;
  void backward(const Tensor& dq, const Tensor& dk, const Tensor& dv) const;
};

}  // namespace deltacome::cuda
