// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "backend/backend.h"
#include "deltacome/error.h"

namespace deltacome::test {

/// A test on the first GPU; skipped where there is none.
template <class Base = ::testing::Test>
class GpuTest : public Base {
 protected:
  void SetUp() override {
    try {
      gpu_ = create_cuda_backend();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }
  std::unique_ptr<Backend> gpu_;
};

}  // namespace deltacome::test
