// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "io/model_config.h"

namespace deltacome {

/// Where one sequence's keys and values are.
struct Sequence {
  std::vector<int32_t> blocks;  // block of tokens [i * kKvBlock, (i + 1) * kKvBlock)
  int64_t length = 0;           // tokens in the cache
};

/// Paged keys and values of all layers: blocks of kKvBlock tokens, handed to sequences as they
/// grow. Or somebody else keeps count of them, as the engine does: then every sequence comes with
/// all the blocks it needs, and none is ever handed out here. One thread at a time.
class KvCache {
 public:
  enum class Blocks { kHandedOut, kCountedElsewhere };
  /// `dtype`: F32, BF16 for half the memory, U8 (int8 codes) for about a quarter. Throws
  /// kOutOfMemory.
  KvCache(Backend& backend, const ModelConfig& config, int64_t n_layers, int64_t n_blocks,
          DType dtype = DType::kF32, Blocks blocks = Blocks::kHandedOut);

  /// Gives `sequence` the blocks for `length` tokens. Throws kOutOfMemory, changing nothing, if
  /// there are not enough.
  void reserve(Sequence& sequence, int64_t length);
  void release(Sequence& sequence) noexcept;

  const Tensor& keys(int64_t layer) const { return keys_[static_cast<size_t>(layer)]; }
  const Tensor& values(int64_t layer) const { return values_[static_cast<size_t>(layer)]; }
  int64_t free_blocks() const noexcept { return static_cast<int64_t>(free_.size()); }
  int64_t bytes() const noexcept;

  /// Bytes of one block over all layers.
  static int64_t block_bytes(const ModelConfig& config, int64_t n_layers,
                             DType dtype = DType::kF32) noexcept {
    return 2 * n_layers * kKvBlock * kv_row(dtype, config.n_kv_heads, config.head_dim) *
           dtype_bytes(dtype);
  }
  static int64_t blocks_for(int64_t n_tokens) noexcept {
    return (n_tokens + kKvBlock - 1) / kKvBlock;
  }

 private:
  std::vector<Tensor> keys_, values_;  // per layer [n_blocks, kKvBlock, kv_row()]
  std::vector<int32_t> free_;
};

}  // namespace deltacome
