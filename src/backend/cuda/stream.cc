// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <thread>

#include "backend/cuda/memory.h"

namespace deltacome::cuda {
namespace {

constexpr size_t kPieceBytes = size_t{4} << 20;  // large enough for full PCIe speed
constexpr size_t kArrivalBytes = size_t{64} << 10;
constexpr size_t kAlign = 256;

}  // namespace

StreamOrder::StreamOrder(std::shared_ptr<DeviceMemory> memory) : memory_(std::move(memory)) {
  DELTACOME_CUDA_CHECK(cudaEventCreateWithFlags(&reached_, cudaEventDisableTiming));
}

void StreamOrder::enter(const CudaStream& stream) {
  // A stream that is gone has been waited for.
  if (last_ != nullptr && last_ != stream.get() && memory_->has_stream(last_)) {
    DELTACOME_CUDA_CHECK(cudaEventRecord(reached_, last_));
    DELTACOME_CUDA_CHECK(cudaStreamWaitEvent(stream.get(), reached_, 0));
  }
  last_ = stream.get();
}

CudaStream::CudaStream(std::shared_ptr<DeviceMemory> memory) : memory_(std::move(memory)) {
  DELTACOME_CUDA_CHECK(cudaSetDevice(memory_->device()));
  DELTACOME_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  memory_->add_stream(stream_);
}

CudaStream::~CudaStream() {
  cudaSetDevice(memory_->device());
  cudaStreamSynchronize(stream_);  // what it reads may be released after this
  memory_->remove_stream(stream_);
  for (const Piece& piece : pieces_) {
    if (piece.sent != nullptr) cudaEventDestroy(piece.sent);
    cudaFreeHost(piece.data);
  }
  cudaFreeHost(arrivals_);
  cudaStreamDestroy(stream_);
}

std::byte* CudaStream::staging(size_t bytes) {
  if (used_ + bytes > kPieceBytes) {
    Piece& full = pieces_[piece_];
    DELTACOME_CUDA_CHECK(cudaEventRecord(full.sent, stream_));
    full.on_its_way = true;
    piece_ = (piece_ + 1) % pieces_.size();
    used_ = 0;
  }
  Piece& piece = pieces_[piece_];
  if (piece.data == nullptr) {
    DELTACOME_CUDA_CHECK(cudaEventCreateWithFlags(&piece.sent, cudaEventDisableTiming));
    DELTACOME_CUDA_CHECK(cudaMallocHost(reinterpret_cast<void**>(&piece.data), kPieceBytes));
  }
  if (piece.on_its_way) DELTACOME_CUDA_CHECK(cudaEventSynchronize(piece.sent));
  piece.on_its_way = false;
  std::byte* room = piece.data + used_;
  used_ += (bytes + kAlign - 1) / kAlign * kAlign;
  return room;
}

/// Whole pieces by several threads, where there are cores: one copies a fifth of what PCIe takes.
void CudaStream::copy_to_staging(std::byte* to, std::span<const std::byte> from) {
  constexpr int kCopiers = 4, kCores = 8;
  static const bool many_cores = std::thread::hardware_concurrency() >= kCores;
  if (from.size() < kPieceBytes || !many_cores) {
    std::memcpy(to, from.data(), from.size());
    return;
  }
  if (copiers_ == nullptr) copiers_ = std::make_unique<ThreadPool>(kCopiers);
  const auto n = static_cast<int64_t>(from.size());
  copiers_->parallel_for(n, n / kCopiers, [&](int64_t begin, int64_t end) {
    std::memcpy(to + begin, from.data() + begin, static_cast<size_t>(end - begin));
  });
}

void CudaStream::upload(std::span<const std::byte> host, void* to) {
  DELTACOME_CUDA_CHECK(cudaSetDevice(memory_->device()));  // the loader's thread may be new
  auto* at = static_cast<std::byte*>(to);
  while (!host.empty()) {
    const size_t n = std::min(host.size(), kPieceBytes);
    std::byte* room = staging(n);
    copy_to_staging(room, host.first(n));
    DELTACOME_CUDA_CHECK(cudaMemcpyAsync(at, room, n, cudaMemcpyHostToDevice, stream_));
    host = host.subspan(n);
    at += n;
  }
}

void CudaStream::download(const void* from, std::span<std::byte> host) {
  if (host.empty()) return synchronize();
  const bool small = host.size() <= kArrivalBytes;
  if (small && arrivals_ == nullptr) {
    DELTACOME_CUDA_CHECK(cudaMallocHost(reinterpret_cast<void**>(&arrivals_), kArrivalBytes));
  }
  void* to = small ? arrivals_ : host.data();
  DELTACOME_CUDA_CHECK(cudaMemcpyAsync(to, from, host.size(), cudaMemcpyDeviceToHost, stream_));
  synchronize();
  if (small) std::memcpy(host.data(), arrivals_, host.size());
}

}  // namespace deltacome::cuda
