// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <vector>

#include "backend/cuda/context.h"
#include "backend/cuda/delta_layout.h"
#include "backend/weight_format.h"
#include "core/host_tensor.h"

namespace deltacome::cuda {

/// A matrix of the base in 8 or 4 bits, in the layout of deltas.
struct CodedMatrix {
  PackedMatrix packed;
  // Of checkpoints in low precision whose zeros differ: what a row adds for each unit of the sum of
  // a group's inputs, or (n_sums 1) of all inputs. f32 [rows, n_sums] or null.
  const float* zeros = nullptr;
  int64_t n_sums = 0;
  /// Input that a column of codes multiplies, i32 [cols]; null: its own. Equal orders are one.
  std::shared_ptr<const CudaStorage> order;
};

class CodedStorage final : public Storage {
 public:
  CodedStorage(std::unique_ptr<CudaStorage> memory, CodedMatrix matrix)
      : memory_(std::move(memory)), matrix_(std::move(matrix)) {}
  const CodedMatrix& matrix() const noexcept { return matrix_; }

 private:
  std::unique_ptr<CudaStorage> memory_;
  CodedMatrix matrix_;
};
/// Null for a tensor that is held as it was stored.
const CodedMatrix* coded(const Tensor& weight) noexcept;

/// Makes coded matrices on the device. One thread at a time; each call waits for the stream.
class CodedMaker {
 public:
  explicit CodedMaker(const CudaContext& context) : context_(context) {}
  /// Backend::import_projection() of kInt8 or kInt4. Throws kInvalidArgument for weights that are
  /// not finite.
  Tensor from_weights(CudaStream& stream, const HostTensor& host, WeightFormat format);
  /// Backend::import_quantized(). Uniform codes of a scale per row or per groups of whole multiples
  /// of 128 keep their codes; others become 8-bit codes with a scale per 128 inputs, the nearest.
  QuantizedImport from_codes(CudaStream& stream, const QuantizedMatrix& matrix);

 private:
  class Making;
  QuantizedImport keep(CudaStream& stream, const QuantizedMatrix& matrix);
  QuantizedImport nearest(CudaStream& stream, const QuantizedMatrix& matrix);
  std::shared_ptr<const CudaStorage> order_of(CudaStream& stream,
                                              const std::vector<int32_t>& order);

  CudaContext context_;
  std::map<std::vector<int32_t>, std::weak_ptr<const CudaStorage>> orders_;
};

}  // namespace deltacome::cuda
