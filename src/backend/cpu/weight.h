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

 private:
  PackedRows packed_;
  HostTensor bf16_;
};

/// What linear() multiplies an input with.
struct Projection {
  WeightView stored;                   // data null if packed
  const PackedRows* packed = nullptr;  // null: stored
  bool rounds_inputs = false;          // to bf16

  int64_t n_rows() const noexcept { return stored.n_rows; }
  int64_t n_in() const noexcept { return stored.n_in; }
};
Projection projection_of(const Tensor& weight);

/// Backend::import_projection() of a format other than kStored. Throws kInvalidArgument for weights
/// that are not finite under kInt8 or kInt4.
Tensor make_projection(const Runtime& runtime, const HostTensor& host, WeightFormat format);

}  // namespace deltacome::cpu
