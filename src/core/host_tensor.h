// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"

namespace deltacome {

/// A read-only, row-major tensor in host memory. Copying shares the bytes; `owner` keeps them alive
/// (a mapped file, a heap block). Bytes need not be aligned to the element size.
struct HostTensor {
  DType dtype = DType::kU8;
  Shape shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;

  int64_t size() const noexcept { return element_count(shape); }
  /// Rows of a matrix; every tensor is read as [shape[0], product of the rest].
  int64_t rows() const noexcept { return shape.empty() ? 1 : shape[0]; }
  int64_t cols() const noexcept { return rows() == 0 ? 0 : size() / rows(); }

  /// Rows [first, first + count) as float, row-major. Throws kUnsupported for integer tensors.
  std::vector<float> to_float(int64_t first, int64_t count) const {
    std::vector<float> out(static_cast<size_t>(count * cols()));
    convert_to_float(bytes.data() + first * cols() * dtype_bytes(dtype), dtype, out);
    return out;
  }
  std::vector<float> to_float() const { return to_float(0, rows()); }

  /// A tensor that owns a copy of `values`.
  template <class T>
  static HostTensor of(DType dtype, Shape shape, std::vector<T> values) {
    auto kept = std::make_shared<std::vector<T>>(std::move(values));
    return {dtype, std::move(shape), std::as_bytes(std::span<const T>(*kept)), kept};
  }
};

}  // namespace deltacome
