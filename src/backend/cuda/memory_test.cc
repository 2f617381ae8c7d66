// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/memory.h"

#include <numeric>

#include "backend/cuda/test_support.h"

namespace deltacome::cuda {
namespace {

class DeviceMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no CUDA device";
  }
  static constexpr int64_t kMiB = int64_t{1} << 20;
};

TEST_F(DeviceMemoryTest, CountsWhatIsInUseByPurpose) {
  DeviceMemory memory(0, 64 * kMiB);
  const auto weights = memory.allocate(3 * kMiB, Purpose::kWeights);
  const auto work = memory.allocate(1000, Purpose::kWorkspace);
  EXPECT_GE(memory.used(Purpose::kWeights), 3 * kMiB);
  EXPECT_LE(memory.used(Purpose::kWeights), 3 * kMiB + 3 * kMiB / 8);
  EXPECT_EQ(memory.used(Purpose::kVariants), 0);
  EXPECT_EQ(memory.used(Purpose::kWorkspace), 1024);
  memory.release(weights);
  memory.release(work);
  EXPECT_EQ(memory.used(Purpose::kWeights), 0);
  EXPECT_EQ(memory.used(Purpose::kWorkspace), 0);
}

TEST(Slab, PlacesDoNotOverlapAndFreeOnesJoin) {
  constexpr int64_t kBytes = 64;
  std::array<std::byte, kBytes> memory{};
  Slab slab(memory.data(), kBytes);
  EXPECT_TRUE(slab.unused());
  std::byte* const a = slab.take(16);
  std::byte* const b = slab.take(24);
  std::byte* const c = slab.take(24);
  EXPECT_EQ(a, memory.data());
  EXPECT_EQ(b, a + 16);
  EXPECT_EQ(c, b + 24);
  EXPECT_EQ(slab.take(1), nullptr);
  slab.give_back(a, 16);
  slab.give_back(c, 24);
  EXPECT_EQ(slab.take(40), nullptr) << "the free places do not touch";
  slab.give_back(b, 24);
  EXPECT_TRUE(slab.unused());
  EXPECT_EQ(slab.take(kBytes), memory.data());
  EXPECT_FALSE(slab.unused());
}

TEST_F(DeviceMemoryTest, ManySmallBlocksTakeHardlyMoreThanTheirBytes) {
  DeviceMemory memory(0, 1024 * kMiB);
  std::vector<DeviceMemory::Block> blocks;
  const int64_t before = memory.use().device_free;
  for (int i = 0; i < 90; ++i)
    blocks.push_back(memory.allocate(2 * kMiB + 3000, Purpose::kVariants));
  for (size_t i = 1; i < blocks.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      EXPECT_GE(std::abs(blocks[i].data - blocks[j].data), blocks[i].bytes);
  const MemoryUse use = memory.use();
  EXPECT_EQ(use.variants, 90 * (2 * kMiB + 3072));
  EXPECT_EQ(use.held, 192 * kMiB);
  EXPECT_LE(before - use.device_free, 200 * kMiB);
  for (const auto& block : blocks) memory.release(block);
  EXPECT_EQ(memory.use().variants, 0);
  const auto all = memory.allocate(1000 * kMiB, Purpose::kWeights);  // the slabs make room
  EXPECT_EQ(memory.use().held, 1000 * kMiB);
  memory.release(all);
}

TEST_F(DeviceMemoryTest, WhatIsRepackedLeavesNoHoles) {
  DeviceMemory memory(0, 1024 * kMiB);
  std::vector<DeviceMemory::Block> kept;
  for (int i = 0; i < 150; ++i) {
    kept.push_back(memory.allocate(2 * kMiB + 9000, Purpose::kVariants));
    const auto staged = memory.allocate(2 * kMiB + 100, Purpose::kStaging);
    memory.release(staged);
  }
  // 31 blocks in a slab of 64 MiB; no stream holds up what is staged.
  EXPECT_LE(memory.use().held, 5 * 64 * kMiB + 8 * kMiB);
  for (const auto& block : kept) memory.release(block);
}

TEST_F(DeviceMemoryTest, WorkspaceIsHandedOutAgainAtOnce) {
  DeviceMemory memory(0, 64 * kMiB);
  const auto first = memory.allocate(5 * kMiB, Purpose::kWorkspace);
  memory.release(first);
  const auto again = memory.allocate(5 * kMiB - 1000, Purpose::kWorkspace);
  EXPECT_EQ(again.data, first.data);
  const auto other = memory.allocate(5 * kMiB, Purpose::kWorkspace);
  EXPECT_NE(other.data, first.data);
  memory.release(again);
  memory.release(other);
}

TEST_F(DeviceMemoryTest, TheBudgetHoldsAndWhatIsReleasedCountsAsRoom) {
  DeviceMemory memory(0, 16 * kMiB);
  const auto held = memory.allocate(10 * kMiB, Purpose::kKvCache);
  try {
    memory.allocate(10 * kMiB, Purpose::kWeights);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
  }
  memory.release(held);
  for (int i = 0; i < 5; ++i) {
    for (const Purpose purpose : {Purpose::kWeights, Purpose::kWorkspace, Purpose::kVariants}) {
      const auto block = memory.allocate((10 + i % 3) * kMiB, purpose);
      EXPECT_NE(block.data, nullptr);
      memory.release(block);
    }
  }
}

TEST_F(DeviceMemoryTest, ABlockThatAStreamMayReadIsNotHandedOut) {
  const auto memory = std::make_shared<DeviceMemory>(0, 256 * kMiB);
  CudaStream stream(memory), other(memory);
  const size_t n = static_cast<size_t>(8 * kMiB);
  std::vector<std::byte> ones(n, std::byte{1}), twos(n, std::byte{2}), got(n);
  for (int i = 0; i < 20; ++i) {
    const auto target = memory->allocate(8 * kMiB, Purpose::kKvCache);
    const auto source = memory->allocate(8 * kMiB, Purpose::kVariants);
    stream.upload(ones, source.data);
    for (int copies = 0; copies < 10; ++copies) {
      DELTACOME_CUDA_CHECK(
          cudaMemcpyAsync(target.data, source.data, n, cudaMemcpyDeviceToDevice, stream.get()));
    }
    memory->release(source);
    const auto next = memory->allocate(8 * kMiB, Purpose::kVariants);
    other.upload(twos, next.data);
    stream.download(target.data, got);
    EXPECT_EQ(got, ones) << i;
    other.synchronize();
    memory->release(next);
    memory->release(target);
  }
}

TEST_F(DeviceMemoryTest, StreamsThatAreEnteredInTurnRunInTurn) {
  const auto memory = std::make_shared<DeviceMemory>(0, 256 * kMiB);
  StreamOrder order(memory);
  CudaStream first(memory), second(memory);
  const size_t n = static_cast<size_t>(16 * kMiB);
  const auto a = memory->allocate(16 * kMiB, Purpose::kWorkspace);
  const auto b = memory->allocate(16 * kMiB, Purpose::kWorkspace);
  std::vector<std::byte> got(n);
  for (int i = 1; i <= 20; ++i) {
    order.enter(first);
    for (int copies = 0; copies < 10; ++copies) {
      DELTACOME_CUDA_CHECK(cudaMemsetAsync(a.data, 0, n, first.get()));
    }
    DELTACOME_CUDA_CHECK(cudaMemsetAsync(a.data, i, n, first.get()));
    order.enter(second);
    DELTACOME_CUDA_CHECK(
        cudaMemcpyAsync(b.data, a.data, n, cudaMemcpyDeviceToDevice, second.get()));
    second.download(b.data, got);
    EXPECT_EQ(std::ranges::count(got, static_cast<std::byte>(i)), static_cast<int64_t>(n)) << i;
  }
  {
    CudaStream gone(memory);
    order.enter(gone);
  }
  order.enter(first);  // does not name a stream that is no more
  first.synchronize();
  memory->release(a);
  memory->release(b);
}

TEST_F(DeviceMemoryTest, UploadsOfAnySizeArriveThoughTheHostsBytesChange) {
  const auto memory = std::make_shared<DeviceMemory>(0, 256 * kMiB);
  CudaStream stream(memory);
  for (const int64_t n : {int64_t{1}, int64_t{255}, int64_t{70000}, 4 * kMiB, 21 * kMiB + 3}) {
    const auto block = memory->allocate(n, Purpose::kWorkspace);
    std::vector<std::byte> bytes(static_cast<size_t>(n)), got(bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 251);
    const std::vector<std::byte> want = bytes;
    stream.upload(bytes, block.data);
    std::ranges::fill(bytes, std::byte{0});
    stream.download(block.data, got);
    EXPECT_EQ(got, want) << n;
    memory->release(block);
  }
}

}  // namespace
}  // namespace deltacome::cuda
