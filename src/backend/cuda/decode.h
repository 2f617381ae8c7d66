// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>

#include "backend/cuda/context.h"
#include "quant/format.h"

namespace deltacome::cuda {

/// TrainingOps::decode() on the device, from the stored bytes. One thread at a time.
class DeltaDecoder {
 public:
  explicit DeltaDecoder(const CudaContext& context) : context_(context) {}
  void run(CudaStream& stream, const MatrixFormat& format, const Tensor& blob, const Tensor& q,
           const Tensor& v);

 private:
  Tensor book(CudaStream& stream, int dim);

  CudaContext context_;
  std::map<int, Tensor> books_;  // int8 [256, dim]
};

}  // namespace deltacome::cuda
