// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/context.h"
#include "backend/cuda/delta_layout.h"

namespace deltacome::cuda {

/// One tensor of a variant. Pointers are to device memory that it owns.
struct CudaTensor {
  struct Tier {
    PackedMatrix v, u;  // times s, times row gains
    PlainArray plain_v, plain_u;
    int64_t rank = 0;
  };
  MatrixFormat format;
  bool packed = false;  // lowrank, dense: in PackedMatrix
  PackedMatrix matrix;  // dense, vector
  PlainArray plain;     // dense that is not packed
  std::vector<Tier> tiers;
  PlainArray raw;                      // a raw matrix
  PlainArray added;                    // rows that the base lacks
  const float* values = nullptr;       // [n] of a raw vector (norm, bias)
  const float* s = nullptr;            // [rank], if not packed
  const float* row_gain = nullptr;     // [base_rows] or null
  const float* col_gain = nullptr;     // [n_in] or null
  std::vector<float> col_gain_values;  // the same, to find equal ones
  std::unique_ptr<CudaStorage> storage;
  int64_t bytes = 0;
};

/// The tensors of a variant in device memory: dense, low-rank and vector codes in the layout of the
/// kernels (delta_layout.h), others as they are stored.
class CudaVariant final : public DeviceVariant {
 public:
  CudaVariant(const CudaContext& context, int n_slots);
  /// Uploads the blob and repacks it on the device, on `stream`; `blob` may be freed at once.
  void set(int slot, const MatrixFormat& format, const HostTensor& blob, Stream& stream) override;
  int64_t resident_bytes() const noexcept override { return resident_bytes_; }
  /// Null for a slot that equals the base's.
  const CudaTensor* find(int slot) const noexcept;
  int n_slots() const noexcept { return static_cast<int>(tensors_.size()); }

 private:
  const void* book(int dim, CudaStream& stream);

  CudaContext context_;
  std::vector<std::unique_ptr<CudaTensor>> tensors_;
  std::map<int, std::unique_ptr<CudaStorage>> books_;  // by dimension
  int64_t resident_bytes_ = 0;
};

}  // namespace deltacome::cuda
