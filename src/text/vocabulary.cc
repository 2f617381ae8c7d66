// SPDX-License-Identifier: Apache-2.0
#include "text/vocabulary.h"

#include "core/check.h"

namespace deltacome {

std::string in_quotes(std::string_view text) {
  constexpr size_t kShown = 64;
  if (text.size() <= kShown) return fmt::format("\"{}\"", text);
  size_t cut = kShown;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
  return fmt::format("\"{}...\"", text.substr(0, cut));
}

Vocabulary::Vocabulary(std::vector<std::pair<std::string, TokenId>> entries)
    : entries_(std::move(entries)) {
  ids_.reserve(entries_.size());
  for (size_t i = 0; i < entries_.size(); ++i) {
    const auto& [token, id] = entries_[i];
    if (!ids_.emplace(token, id).second) {
      fail(ErrorCode::kCorrupt, "token {} occurs twice", in_quotes(token));
    }
    const auto [first, is_new] = index_.insert(static_cast<uint64_t>(id), i);
    if (!is_new) {
      fail(ErrorCode::kCorrupt, "tokens {} and {} have the same id {}",
           in_quotes(entries_[first].first), in_quotes(token), id);
    }
  }
}

std::optional<TokenId> Vocabulary::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

const std::string* Vocabulary::token_of(TokenId id) const noexcept {
  const size_t* index = index_.find(static_cast<uint64_t>(static_cast<uint32_t>(id)));
  return index == nullptr ? nullptr : &entries_[*index].first;
}

}  // namespace deltacome
