// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/cuda_check.h"
#include "backend/cuda/slab.h"
#include "core/thread_pool.h"

namespace deltacome::cuda {

/// What device memory is for; each purpose is counted apart.
enum class Purpose : uint8_t {
  kWeights,
  kVariants,
  kKvCache,
  kWorkspace,
  kTables,  // of plans
  kStaging  // blobs that are repacked
};
inline constexpr size_t kPurposes = 6;

/// Device memory under a budget of bytes. What is released is kept and handed out again, so that a
/// steady state calls no allocator of CUDA, which may wait for the device. Workspace is handed out
/// again at once: its users are ops on the one stream that computes, so they run in order. All
/// other blocks wait until every stream has passed the point of the release. Those of up to 16 MiB
/// lie in slabs, but for staging, which would leave holes between what stays. Thread-safe.
class DeviceMemory {
 public:
  DeviceMemory(int device, int64_t budget_bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  struct Block {
    std::byte* data = nullptr;  // aligned to 256 bytes; null for 0 bytes
    int64_t bytes = 0;          // what was asked for, rounded up
    Purpose purpose = Purpose::kWorkspace;
  };
  /// Throws kOutOfMemory if the budget or the device has no room.
  Block allocate(int64_t bytes, Purpose purpose);
  /// Calls nothing of CUDA, so it cannot fail.
  void release(const Block& block) noexcept;

  /// Free blocks of workspace that recorded ops go on using: no other op gets them.
  using Arena = std::multimap<int64_t, std::byte*>;
  /// Until end_recording() workspace comes from `arena` first, and what is released goes there, so
  /// that ops that run twice find the same blocks.
  void begin_recording(Arena& arena);
  void end_recording() noexcept;
  /// Hands the blocks out again as any.
  void release(Arena& arena) noexcept;
  /// While a stream is captured no event may be put on it: what is released waits.
  void set_capturing(bool capturing) noexcept;

  /// Bytes of blocks in use.
  int64_t used(Purpose purpose) const;
  MemoryUse use() const;
  int64_t budget() const noexcept { return budget_; }
  int device() const noexcept { return device_; }

  // Streams whose work may still read a block when it is released.
  void add_stream(cudaStream_t stream);
  void remove_stream(cudaStream_t stream) noexcept;
  bool has_stream(cudaStream_t stream) const;

 private:
  using Cache = std::multimap<int64_t, std::byte*>;  // by size
  struct Fenced {
    std::vector<cudaEvent_t> passed;
    std::vector<Block> blocks;
  };
  void put_back(const Block& block);
  static bool take_from(Cache& cache, Block& block);
  bool take_free(Block& block);
  /// Throws kOutOfMemory.
  std::byte* take_from_device(int64_t bytes, Purpose purpose);
  std::byte* try_device(int64_t bytes);  // null: it has no room
  void fence_released();
  bool collect(bool wait);  // true if a fence was passed
  void drop_cached() noexcept;

  const int device_;
  const int64_t budget_;
  mutable std::mutex mutex_;
  std::vector<cudaStream_t> streams_;
  std::vector<Block> released_;  // since the last fence
  std::vector<Fenced> fenced_;   // oldest first
  Cache workspace_, large_;      // free blocks
  std::vector<Slab> slabs_;      // of all that is neither workspace nor large
  Arena* arena_ = nullptr;       // of the recording
  bool capturing_ = false;
  int64_t held_ = 0;  // bytes taken from the device
  int64_t peak_ = 0;  // the most that they were
  std::array<int64_t, kPurposes> used_{};
};

/// Device memory behind a tensor.
class CudaStorage final : public Storage {
 public:
  CudaStorage(std::shared_ptr<DeviceMemory> memory, int64_t bytes, Purpose purpose)
      : memory_(std::move(memory)), block_(memory_->allocate(bytes, purpose)) {}
  ~CudaStorage() override { memory_->release(block_); }
  CudaStorage(const CudaStorage&) = delete;
  CudaStorage& operator=(const CudaStorage&) = delete;
  std::byte* data() const noexcept { return block_.data; }

 private:
  std::shared_ptr<DeviceMemory> memory_;
  DeviceMemory::Block block_;
};

/// A stream of the device, with pinned memory through which its copies go. One thread at a time.
class CudaStream final : public Stream {
 public:
  explicit CudaStream(std::shared_ptr<DeviceMemory> memory);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  void synchronize() override { DELTACOME_CUDA_CHECK(cudaStreamSynchronize(stream_)); }
  cudaStream_t get() const noexcept { return stream_; }

  /// Copies to device memory. The host's bytes are free for other use when this returns, the copy
  /// itself is stream-ordered; it waits only while all pinned memory is on its way.
  void upload(std::span<const std::byte> host, void* to);
  /// Returns when the bytes have arrived.
  void download(const void* from, std::span<std::byte> host);

 private:
  struct Piece {
    std::byte* data = nullptr;
    cudaEvent_t sent = nullptr;
    bool on_its_way = false;
  };
  std::byte* staging(size_t bytes);  // room in the current piece, or in the next when it is free
  void copy_to_staging(std::byte* to, std::span<const std::byte> from);

  std::shared_ptr<DeviceMemory> memory_;
  cudaStream_t stream_ = nullptr;
  std::array<Piece, 4> pieces_;
  size_t piece_ = 0, used_ = 0;    // where the next bytes go
  std::byte* arrivals_ = nullptr;  // pinned, of small downloads
  std::unique_ptr<ThreadPool> copiers_;
};

/// One stream of ops, though they may name several: each waits for the one before it. That makes
/// workspace safe to hand out at once. One thread at a time.
class StreamOrder {
 public:
  explicit StreamOrder(std::shared_ptr<DeviceMemory> memory);
  ~StreamOrder() { cudaEventDestroy(reached_); }
  StreamOrder(const StreamOrder&) = delete;
  StreamOrder& operator=(const StreamOrder&) = delete;
  /// What is put on `stream` next comes after all that was put on streams entered before.
  void enter(const CudaStream& stream);

 private:
  std::shared_ptr<DeviceMemory> memory_;
  cudaStream_t last_ = nullptr;
  cudaEvent_t reached_ = nullptr;
};

inline CudaStream& cuda_stream(Stream& stream) {
  return static_cast<CudaStream&>(stream);
}
inline cudaStream_t raw(Stream& stream) {
  return cuda_stream(stream).get();
}

/// First byte of a tensor in device memory; null for a tensor without elements.
inline std::byte* bytes_of(const Tensor& tensor) {
  DELTACOME_CHECK(tensor.storage != nullptr);
  return static_cast<CudaStorage&>(*tensor.storage).data() + tensor.offset;
}
inline float* f32(const Tensor& tensor) {
  DELTACOME_CHECK(tensor.dtype == DType::kF32);
  return reinterpret_cast<float*>(bytes_of(tensor));
}
inline int32_t* i32(const Tensor& tensor) {
  DELTACOME_CHECK(tensor.dtype == DType::kI32);
  return reinterpret_cast<int32_t*>(bytes_of(tensor));
}

}  // namespace deltacome::cuda
