// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "backend/cuda/attention.h"
#include "backend/cuda/variant_plan.h"

namespace deltacome::cuda {

/// Steps as CUDA graphs. The first step of a key runs as ever and is then captured; later ones
/// write their tables in place and launch the graph. A step is recorded again when a table has
/// moved or there are kinds of deltas that the graph lacks. Codes are never decoded in it.
class CudaStepRecorder final : public StepRecorder {
 public:
  /// `order` of the backend's ops; outlives the recorder.
  CudaStepRecorder(const CudaContext& context, StreamOrder& order);
  ~CudaStepRecorder() override;
  CudaStepRecorder(const CudaStepRecorder&) = delete;
  CudaStepRecorder& operator=(const CudaStepRecorder&) = delete;

  Plans begin(Stream& stream, std::span<const int64_t> key,
              std::span<const VariantSegment> segments,
              std::span<const SequenceChunk> chunks) override;
  void run(Stream& stream, const std::function<void()>& ops) override;
  /// Times that a step was captured.
  int64_t n_recorded() const noexcept { return n_recorded_; }

 private:
  struct Recorded;
  void record(CudaStream& stream, const std::function<void()>& ops);
  void forget_oldest();

  CudaContext context_;
  StreamOrder& order_;
  DeviceMemory::Arena arena_;  // steps follow each other: they share their workspace
  std::map<std::vector<int64_t>, std::unique_ptr<Recorded>> recorded_;
  Recorded* current_ = nullptr;
  int64_t n_steps_ = 0, n_recorded_ = 0;
};

}  // namespace deltacome::cuda
