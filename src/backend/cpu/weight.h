// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/backend.h"
#include "backend/cpu/cpu_memory.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/packed_rows.h"
#include "backend/cpu/runtime.h"

namespace deltacome::cpu {

/// A projection of the base that is not used as it was stored: packed codes, or bf16 that
/// multiplies inputs rounded to bf16.
class ProjectionStorage final : public Storage {
 public:
  explicit ProjectionStorage(PackedRows packed) : packed_(std::move(packed)) {}
  explicit ProjectionStorage(HostTensor bf16) : bf16_(std::move(bf16)) {}

  const PackedRows& packed() const noexcept { return packed_; }  // empty: bf16()
  const HostTensor& bf16() const noexcept { return bf16_; }

  // Of checkpoints in low precision, beside packed codes.
  /// Codes are around other values than the layout's center: [n_out, n_groups] or [n_out] f32 that
  /// a row adds for each unit of a group's, or the whole input's, sum. Empty: none.
  std::vector<float> zeros;
  std::vector<int32_t> order;  // [n_in] input that a column of codes multiplies; empty: its own

 private:
  PackedRows packed_;
  HostTensor bf16_;
};

/// What linear() multiplies an input with.
struct Projection {
  WeightView stored;                            // data null if packed
  const PackedRows* packed = nullptr;           // null: stored
  bool rounds_inputs = false;                   // to bf16
  std::span<const float> zeros;                 // ProjectionStorage::zeros
  const std::vector<int32_t>* order = nullptr;  // null: none

  int64_t n_rows() const noexcept { return stored.n_rows; }
  int64_t n_in() const noexcept { return stored.n_in; }
};
Projection projection_of(const Tensor& weight);

/// Backend::import_quantized(). Uniform codes of a scale per row or per groups of whole multiples
/// of 128 keep their codes; others become 8-bit codes with a scale per 128 inputs, the nearest.
QuantizedImport make_quantized(const Runtime& runtime, const QuantizedMatrix& matrix);

/// Backend::import_projection() of a format other than kStored. Throws kInvalidArgument for weights
/// that are not finite under kInt8 or kInt4.
Tensor make_projection(const Runtime& runtime, const HostTensor& host, WeightFormat format);

}  // namespace deltacome::cpu
