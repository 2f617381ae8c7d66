// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace deltacome::grammar {

using TokenId = int32_t;

/// Byte strings as a tree of common beginnings, in depth-first order: the strings that begin as a
/// node does are the nodes up to its end. Node 0 is the empty string. Immutable.
class TokenTrie {
 public:
  using Node = uint32_t;
  /// `tokens` of 1 to kMaxTokenBytes bytes, sorted by their bytes.
  struct Entry {
    std::string_view bytes;
    TokenId id;
    uint8_t plain_chars;  // see PlainTokens; kNotPlain for others
  };
  static constexpr size_t kMaxTokenBytes = 255;
  static constexpr uint8_t kNotPlain = 255;

  TokenTrie() = default;
  explicit TokenTrie(std::span<const Entry> entries);

  Node n_nodes() const noexcept { return static_cast<Node>(nodes_.size()); }
  Node end(Node node) const noexcept { return nodes_[node].end; }
  uint8_t byte(Node node) const noexcept { return nodes_[node].byte; }
  uint8_t depth(Node node) const noexcept { return nodes_[node].depth; }  // bytes from the root
  /// The most characters of a token at or below the node; kNotPlain if one is not plain.
  uint8_t plain_chars(Node node) const noexcept { return nodes_[node].plain_chars; }
  std::span<const TokenId> tokens(Node node) const noexcept {
    return std::span(tokens_).subspan(
        nodes_[node].first_token, nodes_[node + size_t{1}].first_token - nodes_[node].first_token);
  }
  bool has_children(Node node) const noexcept { return end(node) > node + 1; }
  std::optional<Node> child(Node node, uint8_t byte) const noexcept;
  size_t bytes() const noexcept;

 private:
  struct NodeData {
    uint32_t end = 0;
    uint32_t first_token = 0;
    uint8_t byte = 0, depth = 0, plain_chars = 0;
  };
  std::vector<NodeData> nodes_;  // and one more at the end
  std::vector<TokenId> tokens_;
};

/// A vocabulary as constraints see it: the bytes that each token adds to a text. Immutable and
/// thread-safe.
class TokenSet {
 public:
  /// By id; absent or empty: never allowed (special tokens above all). Tokens of more than
  /// kMaxTokenBytes bytes are never allowed either. `drops_first_space`: a text loses the space
  /// that its first token begins with.
  TokenSet(std::vector<std::optional<std::string>> tokens, bool drops_first_space);

  size_t size() const noexcept { return tokens_.size(); }
  size_t n_words() const noexcept { return (size() + 31) / 32; }  // of a mask
  /// nullptr if it is never allowed.
  const std::string* bytes_of(TokenId id) const noexcept;
  bool drops_first_space() const noexcept { return drops_first_space_; }
  const TokenTrie& trie() const noexcept { return all_; }
  /// The tokens that are not plain, which are few.
  const TokenTrie& special_trie() const noexcept { return not_plain_; }
  /// Bit mask of the plain tokens of at most so many characters: they consist of whole characters
  /// from U+0020 up, without ", \ and U+007F.
  std::span<const uint32_t> plain_mask(uint8_t max_chars) const noexcept;
  uint8_t longest_plain() const noexcept { return static_cast<uint8_t>(plain_.size() - 1); }
  size_t bytes() const noexcept { return bytes_; }  // of memory

 private:
  size_t count_bytes() const noexcept;

  std::vector<std::optional<std::string>> tokens_;
  bool drops_first_space_;
  TokenTrie all_, not_plain_;
  std::vector<std::vector<uint32_t>> plain_;  // by the most characters
  size_t bytes_ = 0;
};

}  // namespace deltacome::grammar
