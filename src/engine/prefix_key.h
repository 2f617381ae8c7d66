// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

namespace deltacome {

/// Names the contents of one full KV block: SHA-256 over everything that its keys and values depend
/// on. A cryptographic hash, because tenants choose the tokens: no one can make two that agree.
struct PrefixKey {
  std::array<uint64_t, 4> words{};
  bool operator==(const PrefixKey&) const = default;
};

struct PrefixKeyHash {
  size_t operator()(const PrefixKey& key) const noexcept {
    return static_cast<size_t>(key.words[0]);
  }
};

/// Who may share a prefix: the key before the first block.
/// variant_hash: content of the variant, empty = base (invariant E5). tenant and salt: whose
/// requests share. extra_hash: other content that the tokens stand for, for example images.
PrefixKey prefix_root(std::string_view variant_hash, std::string_view tenant, std::string_view salt,
                      std::string_view extra_hash);

/// Key of the block with `tokens` that follows the block `before`.
PrefixKey next_prefix_key(const PrefixKey& before, std::span<const int32_t> tokens);

}  // namespace deltacome
