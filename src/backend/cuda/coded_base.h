// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <span>
#include <vector>

#include "backend/cuda/coded_matrix.h"
#include "backend/cuda/delta_kernels.h"

namespace deltacome::cuda {

/// y = W x with coded W: few rows as those of a delta (integers, inputs of 8 bits), many with
/// weights decoded to bf16 by cuBLASLt.
class CodedBase {
 public:
  explicit CodedBase(const CudaContext& context) : context_(context) {}
  /// At most kMaxTargets, all coded. Stream-ordered; waits for nothing.
  void run(CudaStream& stream, const Tensor& x, std::span<const LinearTarget> targets);

 private:
  struct Table {
    std::unique_ptr<CudaStorage> memory;
    DeltaCall call;
    const int32_t* rows = nullptr;
  };
  void few_rows(CudaStream& stream, const Tensor& x, std::span<const LinearTarget> targets);
  void many_rows(CudaStream& stream, const Tensor& x, std::span<const LinearTarget> targets);
  const Table& table(CudaStream& stream, int64_t n_rows, int64_t n_in,
                     std::span<const LinearTarget> targets);

  CudaContext context_;
  std::map<std::vector<intptr_t>, Table> tables_;
};

}  // namespace deltacome::cuda
