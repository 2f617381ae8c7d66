// SPDX-License-Identifier: Apache-2.0
#include "text/added_tokens.h"

#include <algorithm>

#include "core/utf8.h"

namespace deltacome {
namespace {

/// Start of the last character of a text that is not empty.
size_t last_character(std::string_view text) noexcept {
  size_t at = text.size() - 1;
  while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

/// \w of Rust's regex crate, which knows joiners as word characters too.
bool is_word(std::string_view character) {
  static const Regex word(R"([\p{Alphabetic}\p{L}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])");
  return word.find(character, 0).has_value();
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && is_word(text.substr(last_character(text)));
}

bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word(text.substr(0, static_cast<size_t>(utf8_size(text[0]))));
}

size_t skip_space_before(std::string_view text, size_t at) noexcept {
  while (at > 0) {
    const size_t previous = last_character(text.substr(0, at));
    if (!is_white_space(code_point_at(text, previous))) break;
    at = previous;
  }
  return at;
}

size_t skip_space_after(std::string_view text, size_t at) noexcept {
  while (at < text.size() && is_white_space(code_point_at(text, at))) {
    at += static_cast<size_t>(utf8_size(text[at]));
  }
  return at;
}

}  // namespace

PrefixTree::PrefixTree() : nodes_(1), first_(256, false) {}

void PrefixTree::add(std::string_view text, size_t value) {
  if (text.empty()) return;
  first_[static_cast<unsigned char>(text[0])] = true;
  uint64_t node = 0;
  for (const char c : text) {
    const auto [child, is_new] = children_.insert(node << 8 | static_cast<unsigned char>(c),
                                                  static_cast<uint32_t>(nodes_.size()));
    if (is_new) nodes_.emplace_back();
    node = child;
  }
  if (!nodes_[node].has_value) nodes_[node] = {true, value};
}

std::optional<PrefixTree::Match> PrefixTree::longest_at(std::string_view text,
                                                        size_t at) const noexcept {
  std::optional<Match> longest;
  if (!first_[static_cast<unsigned char>(text[at])]) return longest;
  uint64_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const uint32_t* child = children_.find(node << 8 | static_cast<unsigned char>(text[i]));
    if (child == nullptr) break;
    node = *child;
    if (nodes_[node].has_value) longest = Match{nodes_[node].value, i + 1 - at};
  }
  return longest;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer)
    : tokens_(std::move(tokens)) {
  for (const bool special : {true, false}) {  // of equal strings the special one is found
    for (size_t i = 0; i < tokens_.size(); ++i) {
      AddedToken& token = tokens_[i];
      if (token.special != special) continue;
      token.decoded = token.normalized ? normalizer.apply(token.content).text : token.content;
      (token.normalized ? normalized_ : raw_).add(token.decoded, i);
    }
  }
  for (size_t i = 0; i < tokens_.size(); ++i) {
    by_id_.insert(static_cast<uint64_t>(tokens_[i].id), i);
    by_content_.emplace(tokens_[i].content, i);
  }
}

std::vector<AddedTokens::Segment> AddedTokens::split(const PrefixTree& tree,
                                                     std::string_view text) const {
  std::vector<Segment> out;
  size_t from = 0;
  const auto add_plain = [&](size_t end) {
    if (from < end) out.push_back({text.substr(from, end - from), nullptr, from == 0});
  };
  for (size_t at = 0; at < text.size();) {
    const std::optional<PrefixTree::Match> match = tree.longest_at(text, at);
    if (!match) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[match->value];
    size_t begin = at;
    size_t end = at + match->n_bytes;
    at = end;  // the search goes on here even if the token takes more, or is refused
    if (token.single_word &&
        (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) begin = std::max(skip_space_before(text, begin), from);
    if (token.rstrip) end = skip_space_after(text, end);
    add_plain(begin);
    out.push_back({text.substr(begin, end - std::min(begin, end)), &token, false});
    from = end;
  }
  add_plain(text.size());
  return out;
}

const AddedToken* AddedTokens::find(TokenId id) const noexcept {
  const size_t* index = by_id_.find(static_cast<uint64_t>(static_cast<uint32_t>(id)));
  return index == nullptr ? nullptr : &tokens_[*index];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(content);
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

}  // namespace deltacome
