// SPDX-License-Identifier: Apache-2.0
#include "engine/prefix_key.h"

#include <charconv>
#include <string>

#include "io/files.h"

namespace deltacome {
namespace {

PrefixKey key_of(Sha256& hash) {
  const std::string hex = hash.hex();
  PrefixKey key;
  for (size_t i = 0; i < key.words.size(); ++i)
    std::from_chars(hex.data() + 16 * i, hex.data() + 16 * (i + 1), key.words[i], 16);
  return key;
}

/// Length first, so that two lists of parts never read the same.
void update(Sha256& hash, std::string_view part) {
  const uint64_t size = part.size();
  hash.update(std::as_bytes(std::span(&size, 1)));
  hash.update(part);
}

}  // namespace

PrefixKey prefix_root(std::string_view variant_hash, std::string_view tenant, std::string_view salt,
                      std::string_view extra_hash) {
  Sha256 hash;
  for (const std::string_view part : {variant_hash, tenant, salt, extra_hash}) update(hash, part);
  return key_of(hash);
}

PrefixKey next_prefix_key(const PrefixKey& before, std::span<const int32_t> tokens) {
  Sha256 hash;
  hash.update(std::as_bytes(std::span(before.words)));
  hash.update(std::as_bytes(tokens));
  return key_of(hash);
}

}  // namespace deltacome
