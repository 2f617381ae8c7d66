// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "backend/backend.h"

namespace deltacome::test {

using Values = std::vector<double>;

/// A CPU backend, and float64 tensors to and from it.
class F64BackendTest : public testing::Test {
 protected:
  Tensor put(const Values& values, Shape shape) {
    const Tensor tensor = backend_->allocate(DType::kF64, std::move(shape));
    backend_->upload(*stream_, std::as_bytes(std::span(values)), tensor);
    return tensor;
  }
  Values get(const Tensor& tensor) {
    Values values(static_cast<size_t>(tensor.size()));
    backend_->download(*stream_, tensor, std::as_writable_bytes(std::span(values)));
    return values;
  }

  std::unique_ptr<Backend> backend_ = create_cpu_backend(2);
  std::unique_ptr<Stream> stream_ = backend_->create_stream();
};

}  // namespace deltacome::test
