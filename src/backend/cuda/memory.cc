// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/memory.h"

#include <algorithm>

namespace deltacome::cuda {
namespace {

constexpr int64_t kAlign = 256;
constexpr int64_t kPage = int64_t{2} << 20;  // what the device hands out
constexpr int64_t kSlabBytes = int64_t{64} << 20;
constexpr int64_t kLargestInSlab = int64_t{16} << 20;

int64_t rounded_to(int64_t bytes, int64_t step) {
  return (bytes + step - 1) / step * step;
}

/// Workspace and staging come in steps of an eighth of its magnitude, so that batches of about
/// equal size reuse each other's blocks at a loss of at most an eighth.
int64_t rounded(int64_t bytes, Purpose purpose) {
  if (purpose != Purpose::kWorkspace && purpose != Purpose::kStaging)
    return rounded_to(bytes, bytes > kLargestInSlab ? kPage : kAlign);
  int64_t step = kAlign;
  while (step * 16 <= bytes) step *= 2;
  return rounded_to(bytes, step);
}

bool in_slab(const DeviceMemory::Block& block) {
  return block.purpose != Purpose::kWorkspace && block.purpose != Purpose::kStaging &&
         block.bytes <= kLargestInSlab;
}

const char* name_of(Purpose purpose) {
  switch (purpose) {
    case Purpose::kWeights:
      return "weights";
    case Purpose::kVariants:
      return "variants";
    case Purpose::kKvCache:
      return "keys and values";
    case Purpose::kWorkspace:
      return "workspace";
    case Purpose::kTables:
      return "tables";
    case Purpose::kStaging:
      return "variants on their way";
  }
  return "";
}

}  // namespace

DeviceMemory::DeviceMemory(int device, int64_t budget_bytes)
    : device_(device), budget_(budget_bytes) {}

DeviceMemory::~DeviceMemory() {
  cudaSetDevice(device_);
  cudaDeviceSynchronize();  // kernels may still read what is pending
  for (const Fenced& fenced : fenced_) {
    for (const cudaEvent_t event : fenced.passed) cudaEventDestroy(event);
    for (const Block& block : fenced.blocks) put_back(block);
  }
  for (const Block& block : released_) put_back(block);
  drop_cached();
}

/// A block that nothing reads any more.
void DeviceMemory::put_back(const Block& block) {
  if (!in_slab(block)) {
    large_.emplace(block.bytes, block.data);
    return;
  }
  std::ranges::find_if(slabs_, [&](const Slab& slab) {
    return slab.holds(block.data);
  })->give_back(block.data, block.bytes);
}

bool DeviceMemory::take_from(Cache& cache, Block& block) {
  const auto found = cache.lower_bound(block.bytes);
  // A much larger block is left for those that need it.
  if (found == cache.end() || found->first > block.bytes + block.bytes / 4) return false;
  block = {found->second, found->first, block.purpose};
  cache.erase(found);
  return true;
}

bool DeviceMemory::take_free(Block& block) {
  if (!in_slab(block))
    return take_from(block.purpose == Purpose::kWorkspace ? workspace_ : large_, block);
  for (Slab& slab : slabs_) {
    block.data = slab.take(block.bytes);
    if (block.data != nullptr) return true;
  }
  return false;
}

void DeviceMemory::fence_released() {
  if (released_.empty() || capturing_) return;
  Fenced fenced;
  for (const cudaStream_t stream : streams_) {
    DELTACOME_CUDA_CHECK(
        cudaEventCreateWithFlags(&fenced.passed.emplace_back(), cudaEventDisableTiming));
    DELTACOME_CUDA_CHECK(cudaEventRecord(fenced.passed.back(), stream));
  }
  fenced.blocks.swap(released_);
  fenced_.push_back(std::move(fenced));
}

bool DeviceMemory::collect(bool wait) {
  bool collected = false;
  while (!fenced_.empty() && !capturing_) {
    Fenced& oldest = fenced_.front();
    for (const cudaEvent_t event : oldest.passed) {
      const cudaError_t state = wait ? cudaEventSynchronize(event) : cudaEventQuery(event);
      if (state == cudaErrorNotReady) return collected;
      DELTACOME_CUDA_CHECK(state);
    }
    for (const cudaEvent_t event : oldest.passed) cudaEventDestroy(event);
    for (const Block& block : oldest.blocks) put_back(block);
    fenced_.erase(fenced_.begin());
    collected = true;
  }
  return collected;
}

void DeviceMemory::drop_cached() noexcept {
  for (Cache* cache : {&workspace_, &large_}) {
    for (const auto& [bytes, data] : *cache) {
      cudaFree(data);
      held_ -= bytes;
    }
    cache->clear();
  }
  std::erase_if(slabs_, [&](const Slab& slab) {
    if (!slab.unused()) return false;
    cudaFree(slab.data());
    held_ -= slab.bytes();
    return true;
  });
}

DeviceMemory::Block DeviceMemory::allocate(int64_t bytes, Purpose purpose) {
  DELTACOME_CHECK(bytes >= 0);
  Block block{nullptr, rounded(bytes, purpose), purpose};
  if (bytes == 0) return block;
  const std::lock_guard lock(mutex_);
  const auto taken = [&] {
    used_[static_cast<size_t>(purpose)] += block.bytes;
    return block;
  };
  if (purpose == Purpose::kWorkspace && arena_ != nullptr && take_from(*arena_, block))
    return taken();
  if (take_free(block)) return taken();
  fence_released();
  if (collect(false) && take_free(block)) return taken();
  if (held_ + block.bytes > budget_) {
    if (collect(true) && take_free(block)) return taken();
    drop_cached();  // cudaFree waits for the device, so no kernel reads them any more
  }
  if (in_slab(block)) {
    // Of a small budget most is left for others.
    const int64_t share = (budget_ - held_) / 8;
    const int64_t slab = rounded_to(std::max(block.bytes, std::min(kSlabBytes, share)), kAlign);
    slabs_.emplace_back(take_from_device(slab, purpose), slab);
    block.data = slabs_.back().take(block.bytes);
  } else {
    block.data = take_from_device(block.bytes, purpose);
  }
  return taken();
}

std::byte* DeviceMemory::take_from_device(int64_t bytes, Purpose purpose) {
  if (held_ + bytes > budget_) {
    fail(ErrorCode::kOutOfMemory,
         "{} bytes of device memory for {} were asked for, {} of a budget of {} are in use", bytes,
         name_of(purpose), held_, budget_);
  }
  std::byte* data = try_device(bytes);
  if (data == nullptr) {  // others use the device too
    collect(true);
    drop_cached();
    data = try_device(bytes);
  }
  if (data == nullptr) {
    fail(ErrorCode::kOutOfMemory,
         "{} bytes of device memory for {} were asked for, the device has no room though only {} "
         "of a budget of {} are in use",
         bytes, name_of(purpose), held_, budget_);
  }
  held_ += bytes;
  peak_ = std::max(peak_, held_);
  return data;
}

std::byte* DeviceMemory::try_device(int64_t bytes) {
  DELTACOME_CUDA_CHECK(cudaSetDevice(device_));
  std::byte* data = nullptr;
  const cudaError_t status =
      cudaMalloc(reinterpret_cast<void**>(&data), static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky
    return nullptr;
  }
  DELTACOME_CUDA_CHECK(status);
  return data;
}

void DeviceMemory::release(const Block& block) noexcept {
  if (block.data == nullptr) return;
  const std::lock_guard lock(mutex_);
  used_[static_cast<size_t>(block.purpose)] -= block.bytes;
  if (block.purpose == Purpose::kWorkspace) {
    (arena_ != nullptr ? *arena_ : workspace_).emplace(block.bytes, block.data);
  } else {
    released_.push_back(block);
  }
}

void DeviceMemory::begin_recording(Arena& arena) {
  const std::lock_guard lock(mutex_);
  DELTACOME_CHECK(arena_ == nullptr);
  arena_ = &arena;
}

void DeviceMemory::end_recording() noexcept {
  const std::lock_guard lock(mutex_);
  arena_ = nullptr;
}

void DeviceMemory::release(Arena& arena) noexcept {
  const std::lock_guard lock(mutex_);
  workspace_.merge(arena);
}

void DeviceMemory::set_capturing(bool capturing) noexcept {
  const std::lock_guard lock(mutex_);
  capturing_ = capturing;
}

int64_t DeviceMemory::used(Purpose purpose) const {
  const std::lock_guard lock(mutex_);
  return used_[static_cast<size_t>(purpose)];
}

MemoryUse DeviceMemory::use() const {
  size_t device_free = 0, device_total = 0;
  DELTACOME_CUDA_CHECK(cudaSetDevice(device_));
  DELTACOME_CUDA_CHECK(cudaMemGetInfo(&device_free, &device_total));
  const std::lock_guard lock(mutex_);
  const auto used = [this](Purpose purpose) { return used_[static_cast<size_t>(purpose)]; };
  return {.weights = used(Purpose::kWeights),
          .variants = used(Purpose::kVariants),
          .kv_cache = used(Purpose::kKvCache),
          .workspace = used(Purpose::kWorkspace) + used(Purpose::kTables) + used(Purpose::kStaging),
          .held = held_,
          .peak = peak_,
          .budget = budget_,
          .device_total = static_cast<int64_t>(device_total),
          .device_free = static_cast<int64_t>(device_free)};
}

void DeviceMemory::add_stream(cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  streams_.push_back(stream);
}

void DeviceMemory::remove_stream(cudaStream_t stream) noexcept {
  const std::lock_guard lock(mutex_);
  std::erase(streams_, stream);
}

bool DeviceMemory::has_stream(cudaStream_t stream) const {
  const std::lock_guard lock(mutex_);
  return std::ranges::find(streams_, stream) != streams_.end();
}

}  // namespace deltacome::cuda
