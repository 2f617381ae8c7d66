// SPDX-License-Identifier: Apache-2.0
#include "engine/block_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace deltacome {
namespace {

PrefixKey key(int32_t n) {
  return next_prefix_key(prefix_root("", "", "", ""), std::vector<int32_t>{n});
}

TEST(BlockPool, GivesEveryBlockOnce) {
  BlockPool pool(3);
  std::set<int32_t> blocks;
  for (int i = 0; i < 3; ++i) blocks.insert(pool.allocate());
  EXPECT_EQ(blocks, (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(pool.available(), 0);
}

TEST(BlockPool, AReleasedBlockIsFoundByItsKeyUntilItIsNeeded) {
  BlockPool pool(2);
  const int32_t a = pool.allocate(), b = pool.allocate();
  pool.publish(a, key(1));
  pool.publish(b, key(2));
  pool.release(a);
  pool.release(b);
  EXPECT_EQ(pool.available(), 2);
  EXPECT_EQ(pool.idle(), 2);
  EXPECT_EQ(pool.look_up(key(1)), BlockPool::Lookup::kIdle);
  EXPECT_EQ(pool.take(key(1)), a);
  EXPECT_EQ(pool.look_up(key(1)), BlockPool::Lookup::kInUse);
  EXPECT_EQ(pool.available(), 1);
  pool.release(a);  // now b is the one unused for longest
  EXPECT_EQ(pool.allocate(), b);
  EXPECT_EQ(pool.take(key(2)), std::nullopt);
  EXPECT_EQ(pool.take(key(1)), a);
}

TEST(BlockPool, ASharedBlockIsFreeWhenTheLastHolderLeaves) {
  BlockPool pool(1);
  const int32_t a = pool.allocate();
  pool.publish(a, key(1));
  EXPECT_EQ(pool.take(key(1)), a);
  pool.release(a);
  EXPECT_EQ(pool.available(), 0);
  pool.release(a);
  EXPECT_EQ(pool.available(), 1);
}

TEST(BlockPool, TheFirstBlockKeepsAKey) {
  BlockPool pool(2);
  const int32_t a = pool.allocate(), b = pool.allocate();
  pool.publish(a, key(1));
  pool.publish(b, key(1));
  pool.release(b);
  EXPECT_EQ(pool.idle(), 0);  // b is free: it has no key
  EXPECT_EQ(pool.take(key(1)), a);
}

TEST(BlockPool, EndsOfPrefixesGoFirst) {
  BlockPool pool(3);
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < 3; ++i) {
    blocks.push_back(pool.allocate());
    pool.publish(blocks.back(), key(i));
  }
  const std::vector<int32_t> order = blocks;
  pool.release(blocks);
  EXPECT_TRUE(blocks.empty());
  EXPECT_EQ(pool.allocate(), order[2]);
  EXPECT_EQ(pool.allocate(), order[1]);
  pool.forget_idle();
  EXPECT_EQ(pool.idle(), 0);
  EXPECT_EQ(pool.available(), 1);
  EXPECT_EQ(pool.take(key(0)), std::nullopt);
}

TEST(PrefixKey, DependsOnAllThatItNames) {
  const PrefixKey root = prefix_root("v", "t", "s", "x");
  EXPECT_EQ(root, prefix_root("v", "t", "s", "x"));
  EXPECT_NE(root, prefix_root("w", "t", "s", "x"));
  EXPECT_NE(root, prefix_root("v", "u", "s", "x"));
  EXPECT_NE(root, prefix_root("v", "t", "", "x"));
  EXPECT_NE(root, prefix_root("v", "t", "s", ""));
  EXPECT_NE(prefix_root("ab", "c", "", ""), prefix_root("a", "bc", "", ""));
  const std::vector<int32_t> a = {1, 2}, b = {1, 3};
  EXPECT_NE(next_prefix_key(root, a), next_prefix_key(root, b));
  EXPECT_NE(next_prefix_key(next_prefix_key(root, a), b), next_prefix_key(root, b));
}

}  // namespace
}  // namespace deltacome
