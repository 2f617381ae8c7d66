// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <gtest/gtest.h>

#include <set>

#include "deltacome/error.h"

namespace deltacome {
namespace {

TEST(KvCache, HandsOutDistinctBlocksTakesThemBackAndRefusesWholly) {
  const auto backend = create_cpu_backend(1);
  ModelConfig config;
  config.n_kv_heads = 2;
  config.head_dim = 4;
  KvCache cache(*backend, config, 3, 5);
  EXPECT_EQ(cache.bytes(), 3 * 2 * 5 * kKvBlock * 8 * 4);
  Sequence a, b;
  cache.reserve(a, 1);
  cache.reserve(b, 2 * kKvBlock + 1);
  cache.reserve(a, kKvBlock);  // the block it has is enough
  EXPECT_EQ(a.blocks.size(), 1u);
  EXPECT_EQ(b.blocks.size(), 3u);
  std::set<int32_t> all(a.blocks.begin(), a.blocks.end());
  all.insert(b.blocks.begin(), b.blocks.end());
  EXPECT_EQ(all.size(), 4u);
  EXPECT_THROW(cache.reserve(a, 3 * kKvBlock + 1), Error);
  EXPECT_EQ(a.blocks.size(), 1u) << "a refused reservation changes nothing";
  cache.release(b);
  EXPECT_EQ(cache.free_blocks(), 4);
  cache.reserve(a, 5 * kKvBlock);
  EXPECT_EQ(cache.free_blocks(), 0);
}

TEST(KvCache, TakesTheMemoryThatABlockIsSaidToTake) {
  const auto backend = create_cpu_backend(1);
  ModelConfig config;
  config.n_kv_heads = 2;
  config.head_dim = 64;
  const int64_t values = 3 * 2 * 5 * kKvBlock * 2 * 64;
  for (const auto& [dtype, bytes] : {std::pair{DType::kF32, values * 4},
                                     {DType::kBf16, values * 2},
                                     {DType::kU8, values + values / 64 * 4}}) {
    EXPECT_EQ(KvCache(*backend, config, 3, 5, dtype).bytes(), bytes);
    EXPECT_EQ(5 * KvCache::block_bytes(config, 3, dtype), bytes);
  }
}

TEST(KvCache, HandsOutNothingThatIsCountedElsewhere) {
  const auto backend = create_cpu_backend(1);
  ModelConfig config;
  config.n_kv_heads = 2;
  config.head_dim = 4;
  KvCache cache(*backend, config, 1, 5, DType::kF32, KvCache::Blocks::kCountedElsewhere);
  Sequence with{.blocks = {3}}, without;
  cache.reserve(with, kKvBlock);
  EXPECT_EQ(with.blocks, std::vector<int32_t>{3});
  EXPECT_THROW(cache.reserve(without, 1), Error);
}

}  // namespace
}  // namespace deltacome
