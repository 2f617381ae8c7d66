// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "engine/prefix_key.h"

namespace deltacome {

/// Who uses which block of a paged KV cache. A block is free, in use (one or more holders), or
/// idle: nobody's, but its contents are known by a key and may be taken up again. Idle blocks are
/// given away when free ones run out, the longest unused first. Only numbers: the memory is
/// KvCache's. One thread at a time.
class BlockPool {
 public:
  explicit BlockPool(int64_t n_blocks);

  int64_t n_blocks() const noexcept { return static_cast<int64_t>(blocks_.size()); }
  /// Blocks that allocate() can give.
  int64_t available() const noexcept { return static_cast<int64_t>(free_.size() + idle_.size()); }
  int64_t idle() const noexcept { return static_cast<int64_t>(idle_.size()); }

  /// A block with one holder and no key. Requires available() > 0.
  int32_t allocate();
  /// The block with these contents, if there is one; the caller becomes a holder.
  std::optional<int32_t> take(const PrefixKey& key);
  /// Whether take() would find it, and if so, whether it is idle (taking it lowers available()).
  enum class Lookup { kAbsent, kIdle, kInUse };
  Lookup look_up(const PrefixKey& key) const;
  /// Names the contents of a block in use, which never change again. Another block that already has
  /// the key keeps it.
  void publish(int32_t block, const PrefixKey& key);
  /// Gives up one hold.
  void release(int32_t block) noexcept;
  /// Gives up a sequence's holds, last block first, so that the ends of prefixes go before their
  /// beginnings.
  void release(std::vector<int32_t>& blocks) noexcept;
  /// Forgets what idle blocks hold.
  void forget_idle();

 private:
  struct Block {
    int holders = 0;
    std::optional<PrefixKey> key;
    std::list<int32_t> node;  // its place in idle_ while it is not there: moving never allocates
  };
  Block& at(int32_t block) { return blocks_[static_cast<size_t>(block)]; }

  std::vector<Block> blocks_;
  std::vector<int32_t> free_;
  std::list<int32_t> idle_;                          // longest unused first
  std::vector<std::list<int32_t>::iterator> nodes_;  // of each block, wherever it is
  std::unordered_map<PrefixKey, int32_t, PrefixKeyHash> by_key_;
};

}  // namespace deltacome
