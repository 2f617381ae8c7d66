// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "backend/cuda/linear.h"
#include "backend/cuda/memory.h"

namespace deltacome::bench {

/// The GPU, its stream, and how long work takes there.
class BenchDevice {
 public:
  static constexpr int kReplays = 30;

  explicit BenchDevice(DType weights)
      : backend(create_cuda_backend()), stream(backend->create_stream()), dtype(weights) {
    int major = 0;
    cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, 0);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    overlaps = major >= 9;
  }

  cudaStream_t raw() { return cuda::raw(*stream); }

  static HostTensor random_matrix(DType dtype, int64_t n_out, int64_t n_in) {
    static uint32_t state = 1;
    std::vector<uint16_t> values(static_cast<size_t>(n_out * n_in));
    const uint16_t one = dtype == DType::kBf16 ? 0x3c00 : 0x2000;  // about 0.008
    for (uint16_t& v : values) {
      state = state * 1664525u + 1013904223u;
      v = static_cast<uint16_t>(one + (state >> 25) + ((state >> 9) & 0x8000u));  // sign, mantissa
    }
    return HostTensor::of(dtype, {n_out, n_in}, std::move(values));
  }
  Tensor put(Shape shape, float scale = 1) {
    std::vector<float> values(static_cast<size_t>(element_count(shape)));
    uint32_t state = 7;
    for (float& v : values) {
      state = state * 1664525u + 1013904223u;
      v = scale * (static_cast<float>(state >> 8) * 0x1p-23f - 1);
    }
    const Tensor t = backend->allocate(DType::kF32, std::move(shape));
    backend->upload(*stream, std::as_bytes(std::span(values)), t);
    return t;
  }
  std::unique_ptr<VariantPlan> base_plan(int64_t n) {
    const VariantSegment segment{nullptr, n};
    return backend->plan_variants({&segment, 1});
  }

  /// Median microseconds of `work`, by events.
  double time_events(const std::function<void()>& work) {
    cudaEvent_t begin = nullptr, end = nullptr;
    DELTACOME_CUDA_CHECK(cudaEventCreate(&begin));
    DELTACOME_CUDA_CHECK(cudaEventCreate(&end));
    std::vector<float> ms;
    for (int i = 0; i < kReplays + 3; ++i) {
      DELTACOME_CUDA_CHECK(cudaEventRecord(begin, raw()));
      work();
      DELTACOME_CUDA_CHECK(cudaEventRecord(end, raw()));
      DELTACOME_CUDA_CHECK(cudaEventSynchronize(end));
      ms.push_back(0);
      DELTACOME_CUDA_CHECK(cudaEventElapsedTime(&ms.back(), begin, end));
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    ms.erase(ms.begin(), ms.begin() + 3);  // warm-up
    std::ranges::nth_element(ms, ms.begin() + kReplays / 2);
    return 1e3 * static_cast<double>(ms[kReplays / 2]);
  }
  /// The same as a graph.
  double time(const std::function<void()>& work) {
    work();  // what is allocated on first use
    stream->synchronize();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t run = nullptr;
    DELTACOME_CUDA_CHECK(cudaStreamBeginCapture(raw(), cudaStreamCaptureModeThreadLocal));
    work();
    DELTACOME_CUDA_CHECK(cudaStreamEndCapture(raw(), &graph));
    DELTACOME_CUDA_CHECK(cudaGraphInstantiate(&run, graph, 0));
    const double us = time_events([&] { DELTACOME_CUDA_CHECK(cudaGraphLaunch(run, raw())); });
    cudaGraphExecDestroy(run);
    cudaGraphDestroy(graph);
    return us;
  }

  const std::unique_ptr<Backend> backend;
  const std::unique_ptr<Stream> stream;
  const DType dtype;  // of weights
  int n_sms = 0;
  bool overlaps = false;
};

}  // namespace deltacome::bench
