// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace deltacome::server {

using Digest = std::array<unsigned char, 32>;
Digest sha256(std::string_view text);

/// Who may ask for what. Everything that is not set is not limited.
struct Caller {
  std::string tenant = {};  // whose share and whose limits; empty: anonymous
  bool admin = false;       // may use the endpoints of administrators, and nothing is refused
  double weight = 1;        // share of the engine against other tenants
  std::vector<std::string> variants = {};  // names, "*" at the end for any rest; empty = all
  std::optional<int64_t> requests_per_minute = {}, tokens_per_minute = {}, max_concurrent = {};

  /// "" is the base under its served name, which `base_name` is.
  bool may_use(std::string_view variant, std::string_view base_name) const;
};

/// API keys, of which only the SHA-256 is stored. Immutable.
class Keys {
 public:
  /// {"keys": [{"name", "sha256", "tenant", "admin", "weight", "variants", "requests_per_minute",
  /// "tokens_per_minute", "max_concurrent"}]}. Throws kCorrupt naming the entry and the field,
  /// kNotFound, kIo.
  static Keys load(const std::filesystem::path& file);
  static Keys parse(std::string_view json, const std::string& where);

  /// The caller of "Bearer KEY", null if there is none. Takes the same time for any wrong key.
  std::shared_ptr<const Caller> find(std::string_view authorization) const;
  size_t size() const noexcept { return entries_.size(); }

 private:
  struct Entry {
    Digest digest;
    std::shared_ptr<const Caller> caller;
  };
  std::vector<Entry> entries_;
};

}  // namespace deltacome::server
