// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "core/check.h"
#include "core/dtype.h"
#include "core/shape.h"

namespace deltacome {

/// Memory of a backend. Only the backend that made it knows what is behind it.
class Storage {
 public:
  virtual ~Storage() = default;
};

/// A row-major tensor in a backend's memory; copying shares the memory. Host access only by the
/// backend's upload() and download().
struct Tensor {
  std::shared_ptr<Storage> storage;
  int64_t offset = 0;  // bytes from the start of storage
  DType dtype = DType::kF32;
  Shape shape;

  bool empty() const noexcept { return storage == nullptr; }
  int64_t rows() const noexcept { return shape.empty() ? 1 : shape[0]; }
  int64_t cols() const noexcept { return rows() == 0 ? 0 : size() / rows(); }
  int64_t size() const noexcept { return element_count(shape); }
  int64_t bytes() const noexcept { return size() * dtype_bytes(dtype); }

  /// Rows [first, first + count), sharing memory.
  Tensor slice(int64_t first, int64_t count) const {
    DELTACOME_CHECK(first >= 0 && count >= 0 && first + count <= rows());
    Tensor part = *this;
    part.offset += first * cols() * dtype_bytes(dtype);
    if (!part.shape.empty()) part.shape[0] = count;
    return part;
  }
  /// The same elements under another shape.
  Tensor reshaped(Shape other) const {
    DELTACOME_CHECK(element_count(other) == size());
    Tensor view = *this;
    view.shape = std::move(other);
    return view;
  }
};

}  // namespace deltacome
