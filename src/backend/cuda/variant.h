// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/backend.h"

namespace deltacome::cuda {

/// Rows of each variant of a batch. So far the base alone: what loads variants replaces this.
class CudaVariantPlan final : public VariantPlan {
 public:
  explicit CudaVariantPlan(std::span<const VariantSegment> segments) {
    for (const VariantSegment& segment : segments) n_rows_ += segment.n_rows;
  }
  int64_t n_rows() const noexcept { return n_rows_; }
  /// In device memory, by row of the batch: the variant's own raw vector of a slot as f32, null
  /// where the row uses the base's. Null if no row has one.
  const float* const* raw_rows(int /*slot*/) const { return nullptr; }
  /// Ids that the variant of a row has in the table of a slot, whose base has `n_base`.
  int64_t n_ids(int /*slot*/, int64_t /*row*/, int64_t n_base) const { return n_base; }

 private:
  int64_t n_rows_ = 0;
};

inline const CudaVariantPlan& cuda_plan(const VariantPlan& plan) {
  return static_cast<const CudaVariantPlan&>(plan);
}

}  // namespace deltacome::cuda
