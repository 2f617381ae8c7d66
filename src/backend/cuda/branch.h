// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "backend/cuda/memory.h"

namespace deltacome::cuda {

/// A second stream for what may run beside a few ops of another: a branch of the graph that is
/// captured. Between fork() and join() of a stream nothing else is put on it but by its owner. One
/// thread at a time.
class Branch {
 public:
  explicit Branch(std::shared_ptr<DeviceMemory> memory) : stream_(std::move(memory)) {
    DELTACOME_CUDA_CHECK(cudaEventCreateWithFlags(&forked_, cudaEventDisableTiming));
    DELTACOME_CUDA_CHECK(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming));
  }
  ~Branch() {
    cudaEventDestroy(forked_);
    cudaEventDestroy(done_);
  }
  Branch(const Branch&) = delete;
  Branch& operator=(const Branch&) = delete;

  /// The stream, whose ops come after all that is on `main` now.
  CudaStream& fork(const CudaStream& main) { return follow(main, stream_, forked_), stream_; }
  /// What is put on `main` next comes after the branch's ops.
  void join(const CudaStream& main) { follow(stream_, main, done_); }

 private:
  static void follow(const CudaStream& first, const CudaStream& then, cudaEvent_t reached) {
    DELTACOME_CUDA_CHECK(cudaEventRecord(reached, first.get()));
    DELTACOME_CUDA_CHECK(cudaStreamWaitEvent(then.get(), reached, 0));
  }
  CudaStream stream_;
  cudaEvent_t forked_ = nullptr, done_ = nullptr;
};

}  // namespace deltacome::cuda
