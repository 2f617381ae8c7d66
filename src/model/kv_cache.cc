// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include "core/check.h"

namespace deltacome {

KvCache::KvCache(Backend& backend, const ModelConfig& config, int64_t n_layers, int64_t n_blocks,
                 DType dtype, Blocks blocks) {
  const int64_t width = kv_row(dtype, config.n_kv_heads, config.head_dim);
  for (int64_t i = 0; i < n_layers; ++i) {
    keys_.push_back(backend.allocate_kv(dtype, {n_blocks, kKvBlock, width}));
    values_.push_back(backend.allocate_kv(dtype, {n_blocks, kKvBlock, width}));
  }
  if (blocks == Blocks::kCountedElsewhere) return;
  for (int64_t i = n_blocks; i > 0; --i) free_.push_back(static_cast<int32_t>(i - 1));
}

void KvCache::reserve(Sequence& sequence, int64_t length) {
  const int64_t more = blocks_for(length) - static_cast<int64_t>(sequence.blocks.size());
  if (more > free_blocks()) {
    fail(ErrorCode::kOutOfMemory,
         "the KV cache has {} free blocks of {} tokens, a sequence of {} tokens needs {} more",
         free_blocks(), kKvBlock, length, more);
  }
  for (int64_t i = 0; i < more; ++i) {
    sequence.blocks.push_back(free_.back());
    free_.pop_back();
  }
}

void KvCache::release(Sequence& sequence) noexcept {
  // free_ once held every block, so it has the capacity to take them back without allocating.
  free_.insert(free_.end(), sequence.blocks.rbegin(), sequence.blocks.rend());
  sequence = {};
}

int64_t KvCache::bytes() const noexcept {
  int64_t total = 0;
  for (size_t i = 0; i < keys_.size(); ++i) total += keys_[i].bytes() + values_[i].bytes();
  return total;
}

}  // namespace deltacome
