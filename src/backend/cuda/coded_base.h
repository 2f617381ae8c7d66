// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <span>
#include <vector>

#include "backend/cuda/context.h"
#include "backend/cuda/delta_kernels.h"
#include "backend/cuda/delta_layout.h"
#include "backend/weight_format.h"
#include "core/host_tensor.h"

namespace deltacome::cuda {

/// A matrix of the base in 8 or 4 bits, in the layout of deltas.
class CodedStorage final : public Storage {
 public:
  CodedStorage(std::unique_ptr<CudaStorage> memory, const PackedMatrix& matrix)
      : memory_(std::move(memory)), matrix_(matrix) {}
  const PackedMatrix& matrix() const noexcept { return matrix_; }

 private:
  std::unique_ptr<CudaStorage> memory_;
  PackedMatrix matrix_;
};
/// Null for a tensor that is held as it was stored.
const PackedMatrix* coded(const Tensor& weight) noexcept;

/// Codes of a base's matrix, made on the device. Throws kInvalidArgument for weights that are not
/// finite. Waits for the stream.
Tensor make_coded(const CudaContext& context, CudaStream& stream, const HostTensor& host,
                  WeightFormat format);

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
