// SPDX-License-Identifier: Apache-2.0
#include "engine/block_pool.h"

#include "core/check.h"

namespace deltacome {

BlockPool::BlockPool(int64_t n_blocks) : blocks_(static_cast<size_t>(n_blocks)) {
  for (int64_t i = n_blocks; i > 0; --i) free_.push_back(static_cast<int32_t>(i - 1));
  for (int32_t i = 0; i < n_blocks; ++i) {
    at(i).node.push_back(i);
    nodes_.push_back(at(i).node.begin());
  }
}

int32_t BlockPool::allocate() {
  DELTACOME_CHECK(available() > 0);
  int32_t id = 0;
  if (!free_.empty()) {
    id = free_.back();
    free_.pop_back();
  } else {
    id = idle_.front();
    at(id).node.splice(at(id).node.begin(), idle_, idle_.begin());
    by_key_.erase(*at(id).key);
    at(id).key.reset();
  }
  at(id).holders = 1;
  return id;
}

std::optional<int32_t> BlockPool::take(const PrefixKey& key) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return std::nullopt;
  Block& block = at(found->second);
  if (block.holders++ == 0)
    block.node.splice(block.node.begin(), idle_, nodes_[static_cast<size_t>(found->second)]);
  return found->second;
}

BlockPool::Lookup BlockPool::look_up(const PrefixKey& key) const {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return Lookup::kAbsent;
  return blocks_[static_cast<size_t>(found->second)].holders == 0 ? Lookup::kIdle : Lookup::kInUse;
}

void BlockPool::publish(int32_t id, const PrefixKey& key) {
  Block& block = at(id);
  DELTACOME_CHECK(block.holders > 0);
  if (block.key || !by_key_.emplace(key, id).second) return;
  block.key = key;
}

void BlockPool::release(int32_t id) noexcept {
  Block& block = at(id);
  if (--block.holders > 0) return;
  if (block.key) {
    idle_.splice(idle_.end(), block.node);
  } else {
    free_.push_back(id);  // free_ once held every block: no allocation
  }
}

void BlockPool::release(std::vector<int32_t>& blocks) noexcept {
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) release(*it);
  blocks.clear();
}

void BlockPool::forget_idle() {
  while (!idle_.empty()) {
    const int32_t id = idle_.front();
    at(id).node.splice(at(id).node.begin(), idle_, idle_.begin());
    by_key_.erase(*at(id).key);
    at(id).key.reset();
    free_.push_back(id);
  }
}

}  // namespace deltacome
