// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "backend/cuda/context.h"

namespace deltacome::cuda {

/// Bytes in device memory that are written again in place: what reads them keeps its pointers for
/// as long as they fit.
class DeviceTable {
 public:
  /// Tables may be written on a stream that loads while others compute: that is no workspace.
  explicit DeviceTable(Purpose purpose = Purpose::kTables) : purpose_(purpose) {}
  /// Room for `bytes`; true if what was there has moved.
  bool reserve(const CudaContext& context, int64_t bytes) {
    if (bytes <= capacity_) return false;
    const bool had = storage_ != nullptr;
    // Room beyond what is needed, so that a batch may change without moving its tables.
    capacity_ = (bytes + bytes / 2 + 4095) / 4096 * 4096;
    storage_.reset();
    storage_ = std::make_unique<CudaStorage>(context.memory, capacity_, purpose_);
    return had;
  }
  std::byte* data() const noexcept { return storage_ == nullptr ? nullptr : storage_->data(); }

 private:
  Purpose purpose_;
  std::unique_ptr<CudaStorage> storage_;
  int64_t capacity_ = 0;
};

}  // namespace deltacome::cuda
