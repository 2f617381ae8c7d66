// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/flat_map.h"
#include "text/normalizer.h"
#include "text/tokenizer.h"

namespace deltacome {

/// An entry of `added_tokens`: a string that is one token wherever it occurs in a text.
struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // looked for after normalization, else before
  bool special = false;      // left out by decode(skip_special_tokens)
  std::string decoded = {};  // what it stands for in decode(): content, normalized if `normalized`
};

/// Finds the longest of a set of strings at a place.
class PrefixTree {
 public:
  PrefixTree();
  /// The first of equal strings wins; empty ones are ignored.
  void add(std::string_view text, size_t value);
  struct Match {
    size_t value;
    size_t n_bytes;
  };
  std::optional<Match> longest_at(std::string_view text, size_t at) const noexcept;

 private:
  struct Node {
    bool has_value = false;
    size_t value = 0;
  };
  std::vector<Node> nodes_;     // nodes_[0] is the root
  FlatMap<uint32_t> children_;  // node << 8 | byte -> node
  std::vector<bool> first_;     // [256] bytes that some string begins with
};

/// The added tokens of a tokenizer. Immutable.
class AddedTokens {
 public:
  /// A part of a text: an added token, or what lies between two.
  struct Segment {
    std::string_view text;
    const AddedToken* token;  // nullptr: plain text
    bool at_start;            // plain text that begins where the given text begins
  };

  AddedTokens() = default;
  /// The ids and contents must be distinct; `decoded` is filled in.
  AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer);
  AddedTokens(AddedTokens&&) noexcept = default;
  AddedTokens& operator=(AddedTokens&&) noexcept = default;

  /// Splits a text before normalization by the tokens that are not `normalized`.
  std::vector<Segment> split_raw(std::string_view text) const { return split(raw_, text); }
  /// Splits a text after normalization by those that are.
  std::vector<Segment> split_normalized(std::string_view text) const {
    return split(normalized_, text);
  }

  const std::vector<AddedToken>& tokens() const noexcept { return tokens_; }
  const AddedToken* find(TokenId id) const noexcept;
  const AddedToken* find(std::string_view content) const;

 private:
  std::vector<Segment> split(const PrefixTree& tree, std::string_view text) const;

  std::vector<AddedToken> tokens_;
  FlatMap<size_t> by_id_;                                    // index in tokens_
  std::unordered_map<std::string_view, size_t> by_content_;  // keys view tokens_
  PrefixTree raw_;
  PrefixTree normalized_;
};

}  // namespace deltacome
