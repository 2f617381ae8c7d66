// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/step_recorder.h"

#include <algorithm>

namespace deltacome::cuda {
namespace {

constexpr size_t kMostRecorded = 64;  // graphs that are kept

struct DestroyGraph {
  void operator()(cudaGraph_t graph) const noexcept { cudaGraphDestroy(graph); }
  void operator()(cudaGraphExec_t graph) const noexcept { cudaGraphExecDestroy(graph); }
};
using UniqueGraph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyGraph>;
using UniqueExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyGraph>;

/// Pieces of keys that the longest sequence has, up to the next power of two: a graph serves a
/// while.
int splits_for(std::span<const SequenceChunk> chunks) {
  int64_t longest = 1;
  for (const SequenceChunk& chunk : chunks)
    longest = std::max(longest, chunk.n_past + chunk.n_rows);
  int splits = 1;
  while (splits * int64_t{kSplitKeys} < longest) splits *= 2;
  return splits;
}

/// Workspace of recorded ops comes from the arena.
class Recording {
 public:
  Recording(DeviceMemory& memory, DeviceMemory::Arena& arena) : memory_(memory) {
    memory_.begin_recording(arena);
  }
  ~Recording() { memory_.end_recording(); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

 private:
  DeviceMemory& memory_;
};

/// A stream under capture, which ends in any case.
class Capture {
 public:
  Capture(DeviceMemory& memory, cudaStream_t stream) : memory_(memory), stream_(stream) {
    memory_.set_capturing(true);
    const cudaError_t status = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
    open_ = status == cudaSuccess;
    if (!open_) memory_.set_capturing(false);
    DELTACOME_CUDA_CHECK(status);
  }
  ~Capture() {
    if (open_) end(nullptr);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  UniqueGraph finish() {
    cudaGraph_t graph = nullptr;
    const cudaError_t status = end(&graph);
    UniqueGraph owned(graph);
    DELTACOME_CUDA_CHECK(status);
    return owned;
  }

 private:
  cudaError_t end(cudaGraph_t* graph) noexcept {
    cudaGraph_t dropped = nullptr;
    const cudaError_t status = cudaStreamEndCapture(stream_, graph == nullptr ? &dropped : graph);
    if (dropped != nullptr) cudaGraphDestroy(dropped);
    memory_.set_capturing(false);
    open_ = false;
    return status;
  }
  DeviceMemory& memory_;
  cudaStream_t stream_;
  bool open_ = false;
};

CudaContext without_decoding(CudaContext context) {
  context.decode_rows = DecodeRows::never();
  return context;
}

}  // namespace

struct CudaStepRecorder::Recorded {
  CudaVariantPlan variants;
  CudaAttentionPlan attention;
  UniqueExec exec;
  uint64_t variants_generation = 0, attention_generation = 0;  // of exec
  int64_t used = 0;                                            // step

  bool serves() const {
    return exec != nullptr && variants.generation() == variants_generation &&
           attention.generation() == attention_generation;
  }
};

CudaStepRecorder::CudaStepRecorder(const CudaContext& context, StreamOrder& order)
    : context_(without_decoding(context)), order_(order) {}

CudaStepRecorder::~CudaStepRecorder() {
  recorded_.clear();
  context_.memory->release(arena_);
}

void CudaStepRecorder::forget_oldest() {
  const auto oldest =
      std::ranges::min_element(recorded_, {}, [](const auto& entry) { return entry.second->used; });
  recorded_.erase(oldest);
}

StepRecorder::Plans CudaStepRecorder::begin(Stream& stream, std::span<const int64_t> key,
                                            std::span<const VariantSegment> segments,
                                            std::span<const SequenceChunk> chunks) {
  context_.activate();
  CudaStream& on = cuda_stream(stream);
  order_.enter(on);
  const int splits = splits_for(chunks);
  std::vector<int64_t> full(key.begin(), key.end());
  full.push_back(CudaVariantPlan::segment_tokens_of(segments));
  full.push_back(splits);
  current_ = nullptr;
  std::unique_ptr<Recorded>& entry = recorded_[full];
  if (entry == nullptr) {
    entry.reset(new Recorded{.variants = {context_, segments, on},
                             .attention = {context_, chunks, splits},
                             .exec = nullptr});
  } else {
    entry->variants.assign(segments, on);
    entry->variants.refresh(on);
    entry->attention.assign(chunks);
  }
  entry->variants.disown();
  entry->attention.refresh(on);
  entry->used = ++n_steps_;
  current_ = entry.get();
  if (recorded_.size() > kMostRecorded) forget_oldest();
  return {current_->variants, current_->attention};
}

void CudaStepRecorder::run(Stream& stream, const std::function<void()>& ops) {
  DELTACOME_CHECK(current_ != nullptr);
  context_.activate();
  CudaStream& on = cuda_stream(stream);
  order_.enter(on);
  if (!current_->serves()) return record(on, ops);
  DELTACOME_CUDA_CHECK(cudaGraphLaunch(current_->exec.get(), on.get()));
}

void CudaStepRecorder::record(CudaStream& stream, const std::function<void()>& ops) {
  Recorded& step = *current_;
  step.exec.reset();
  const Recording recording(*context_.memory, arena_);
  ops();  // this step's results; makes the tables and the memory that the capture finds
  step.variants.refresh(stream);
  step.attention.forget_rotations();
  step.variants_generation = step.variants.generation();
  step.attention_generation = step.attention.generation();
  Capture capture(*context_.memory, stream.get());
  ops();
  const UniqueGraph graph = capture.finish();
  cudaGraphExec_t exec = nullptr;
  DELTACOME_CUDA_CHECK(cudaGraphInstantiate(&exec, graph.get(), 0));
  step.exec.reset(exec);
  ++n_recorded_;
}

}  // namespace deltacome::cuda
