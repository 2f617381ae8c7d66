// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/flat_map.h"
#include "text/tokenizer.h"

namespace deltacome {

/// `text` in double quotes for a message, cut after 64 bytes.
std::string in_quotes(std::string_view text);

/// A token -> id table and its inverse. Immutable; ids may be sparse up to 2^31 - 1.
class Vocabulary {
 public:
  Vocabulary() = default;
  /// Throws kCorrupt for a token or an id that occurs twice.
  explicit Vocabulary(std::vector<std::pair<std::string, TokenId>> entries);
  Vocabulary(Vocabulary&&) noexcept = default;
  Vocabulary& operator=(Vocabulary&&) noexcept = default;

  std::optional<TokenId> id_of(std::string_view token) const;
  const std::string* token_of(TokenId id) const noexcept;  // nullptr if unknown
  const std::vector<std::pair<std::string, TokenId>>& entries() const noexcept { return entries_; }

 private:
  std::vector<std::pair<std::string, TokenId>> entries_;
  std::unordered_map<std::string_view, TokenId> ids_;  // keys view entries_
  FlatMap<size_t> index_;                              // id -> index in entries_
};

}  // namespace deltacome
