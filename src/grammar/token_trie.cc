// SPDX-License-Identifier: Apache-2.0
#include "grammar/token_trie.h"

#include <algorithm>

#include "core/utf8.h"

namespace deltacome::grammar {
namespace {

/// Longer plain tokens are counted as not plain: they are few, and each length has a mask.
constexpr uint8_t kMaxPlainChars = 24;

/// Characters of a plain token; kNotPlain for others.
uint8_t count_plain(std::string_view bytes) {
  size_t n = 0;
  for (size_t i = 0; i < bytes.size(); ++n) {
    const auto lead = static_cast<unsigned char>(bytes[i]);
    const Utf8Unit unit = next_utf8_unit(bytes.substr(i));
    if (unit.kind != Utf8Unit::Kind::kCharacter || lead < 0x20 || lead == 0x7F || lead == '"' ||
        lead == '\\')
      return TokenTrie::kNotPlain;
    i += static_cast<size_t>(unit.n_bytes);
  }
  return n > kMaxPlainChars ? TokenTrie::kNotPlain : static_cast<uint8_t>(n);
}

}  // namespace

TokenTrie::TokenTrie(std::span<const Entry> entries) {
  nodes_.push_back({});
  std::vector<Node> path = {0};  // of the last token, by depth
  const auto close = [&](size_t depth) {
    while (path.size() > depth + 1) {
      NodeData& node = nodes_[path.back()];
      node.end = n_nodes();
      path.pop_back();
      NodeData& parent = nodes_[path.back()];
      parent.plain_chars = std::max(parent.plain_chars, node.plain_chars);
    }
  };
  std::string_view last;
  for (const Entry& entry : entries) {
    const auto differs = std::ranges::mismatch(last, entry.bytes);
    const auto common = static_cast<size_t>(differs.in1 - last.begin());
    close(common);
    for (size_t i = common; i < entry.bytes.size(); ++i) {
      path.push_back(n_nodes());
      nodes_.push_back({.first_token = static_cast<uint32_t>(tokens_.size()),
                        .byte = static_cast<uint8_t>(entry.bytes[i]),
                        .depth = static_cast<uint8_t>(i + 1)});
    }
    tokens_.push_back(entry.id);
    NodeData& node = nodes_[path.back()];
    node.plain_chars = std::max(node.plain_chars, entry.plain_chars);
    last = entry.bytes;
  }
  close(0);
  nodes_[0].end = n_nodes();
  nodes_.push_back({.first_token = static_cast<uint32_t>(tokens_.size())});
  nodes_.shrink_to_fit();
}

std::optional<TokenTrie::Node> TokenTrie::child(Node node, uint8_t byte) const noexcept {
  for (Node i = node + 1; i < end(node); i = end(i))
    if (nodes_[i].byte == byte) return i;
  return std::nullopt;
}

size_t TokenTrie::bytes() const noexcept {
  return nodes_.capacity() * sizeof(NodeData) + tokens_.capacity() * sizeof(TokenId);
}

TokenSet::TokenSet(std::vector<std::optional<std::string>> tokens, bool drops_first_space)
    : tokens_(std::move(tokens)), drops_first_space_(drops_first_space) {
  std::vector<TokenTrie::Entry> entries;
  for (size_t id = 0; id < tokens_.size(); ++id) {
    std::optional<std::string>& token = tokens_[id];
    if (token && (token->empty() || token->size() > TokenTrie::kMaxTokenBytes)) token.reset();
    if (token) entries.push_back({*token, static_cast<TokenId>(id), count_plain(*token)});
  }
  std::ranges::sort(entries, [](const auto& a, const auto& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.id < b.id;
  });
  all_ = TokenTrie(entries);
  plain_.resize(1, std::vector<uint32_t>(n_words()));
  for (const TokenTrie::Entry& e : entries) {
    if (e.plain_chars == TokenTrie::kNotPlain) continue;
    if (plain_.size() <= e.plain_chars)
      plain_.resize(e.plain_chars + size_t{1}, std::vector<uint32_t>(n_words()));
    plain_[e.plain_chars][static_cast<size_t>(e.id) / 32] |= 1u << (e.id % 32);
  }
  for (size_t n = 1; n < plain_.size(); ++n)
    for (size_t i = 0; i < n_words(); ++i) plain_[n][i] |= plain_[n - 1][i];
  std::erase_if(entries, [](const auto& e) { return e.plain_chars != TokenTrie::kNotPlain; });
  not_plain_ = TokenTrie(entries);
  bytes_ = count_bytes();
}

const std::string* TokenSet::bytes_of(TokenId id) const noexcept {
  if (id < 0 || static_cast<size_t>(id) >= tokens_.size()) return nullptr;
  const std::optional<std::string>& token = tokens_[static_cast<size_t>(id)];
  return token ? &*token : nullptr;
}

std::span<const uint32_t> TokenSet::plain_mask(uint8_t max_chars) const noexcept {
  return plain_[std::min<size_t>(max_chars, plain_.size() - 1)];
}

size_t TokenSet::count_bytes() const noexcept {
  size_t n = all_.bytes() + not_plain_.bytes() + plain_.size() * n_words() * sizeof(uint32_t) +
             tokens_.capacity() * sizeof(tokens_[0]);
  for (const auto& token : tokens_)
    if (token && token->capacity() > 15) n += token->capacity();
  return n;
}

}  // namespace deltacome::grammar
