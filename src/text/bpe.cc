// SPDX-License-Identifier: Apache-2.0
#include "text/bpe.h"

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "core/utf8.h"

namespace deltacome {
namespace {

uint64_t pair_key(TokenId left, TokenId right) noexcept {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

Bpe::Bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, const BpeOptions& options)
    : vocabulary_(std::move(vocabulary)), options_(options) {
  latin_.fill(kNone);
  for (const auto& [token, id] : vocabulary_.entries()) {
    if (token.empty() || static_cast<size_t>(utf8_size(token[0])) != token.size()) continue;
    const char32_t c = code_point_at(token, 0);
    if (c < latin_.size()) {
      latin_[c] = id;
    } else {
      characters_.insert(c, id);
    }
  }
  for (size_t byte = 0; byte < bytes_.size(); ++byte) {
    bytes_[byte] = vocabulary_.id_of(fmt::format("<0x{:02X}>", byte)).value_or(kNone);
  }
  if (!options_.unk_token.empty()) {
    const std::optional<TokenId> id = vocabulary_.id_of(options_.unk_token);
    if (!id) {
      fail(ErrorCode::kCorrupt, "unk_token {} is not in the vocabulary",
           in_quotes(options_.unk_token));
    }
    unk_id_ = *id;
  }
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string& left = merges[rank].first;
    const std::string& right = merges[rank].second;
    const auto id_of = [&](const std::string& token) {
      const std::optional<TokenId> id = vocabulary_.id_of(token);
      if (!id) {
        fail(ErrorCode::kCorrupt, "merge {} ({} + {}): {} is not in the vocabulary", rank,
             in_quotes(left), in_quotes(right), in_quotes(token));
      }
      return *id;
    };
    const uint64_t key = pair_key(id_of(left), id_of(right));
    const MergeRule rule{static_cast<uint32_t>(rank), id_of(left + right)};
    // A pair that is listed twice has its last rank, as in `tokenizers`.
    rules_.insert(key, rule).first = rule;
  }
}

const Bpe::MergeRule* Bpe::rule_of(TokenId left, TokenId right) const noexcept {
  return rules_.find(pair_key(left, right));
}

TokenId Bpe::id_of_character(char32_t code_point) const noexcept {
  if (code_point < latin_.size()) return latin_[code_point];
  const TokenId* id = characters_.find(code_point);
  return id == nullptr ? kNone : *id;
}

void Bpe::add_symbols(std::string_view word, Scratch& scratch) const {
  auto& symbols = scratch.symbols_;
  symbols.clear();
  const auto add = [&](TokenId id) {
    const auto at = static_cast<int32_t>(symbols.size());
    if (at > 0) symbols.back().next = at;
    symbols.push_back({id, at - 1, -1, false});
  };
  bool unk_pending = false;
  for (size_t at = 0; at < word.size();) {
    const auto n_bytes = static_cast<size_t>(utf8_size(word[at]));
    const std::string_view character = word.substr(at, n_bytes);
    const TokenId id = id_of_character(code_point_at(word, at));
    at += n_bytes;
    if (id != kNone) {
      if (unk_pending) add(unk_id_);
      unk_pending = false;
      add(id);
      continue;
    }
    const auto byte_id = [&](char c) { return bytes_[static_cast<unsigned char>(c)]; };
    if (options_.byte_fallback && std::none_of(character.begin(), character.end(),
                                               [&](char c) { return byte_id(c) == kNone; })) {
      // A pending unk_token comes after these bytes: so it is in `tokenizers` too.
      for (const char c : character) add(byte_id(c));
      continue;
    }
    if (unk_id_ == kNone) continue;
    if (unk_pending && !options_.fuse_unk) add(unk_id_);
    unk_pending = true;
  }
  if (unk_pending) add(unk_id_);
}

namespace {
constexpr auto kLater = [](const auto& a, const auto& b) { return a.order > b.order; };
}  // namespace

void Bpe::push_candidate(Scratch& scratch, int32_t left) const {
  if (left < 0) return;
  const auto& symbols = scratch.symbols_;
  const auto& symbol = symbols[static_cast<size_t>(left)];
  if (symbol.next < 0) return;
  ++scratch.n_steps_;
  const MergeRule* rule = rule_of(symbol.id, symbols[static_cast<size_t>(symbol.next)].id);
  if (rule == nullptr) return;
  scratch.heap_.push_back(
      {static_cast<uint64_t>(rule->rank) << 32 | static_cast<uint32_t>(left), rule->merged});
}

void Bpe::merge_symbols(Scratch& scratch) const {
  auto& symbols = scratch.symbols_;
  auto& heap = scratch.heap_;
  heap.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) push_candidate(scratch, static_cast<int32_t>(i));
  std::make_heap(heap.begin(), heap.end(), kLater);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), kLater);
    const Scratch::Candidate top = heap.back();
    heap.pop_back();
    const auto at = static_cast<int32_t>(top.order & 0xFFFFFFFFu);
    Scratch::Symbol& left = symbols[static_cast<size_t>(at)];
    if (left.merged || left.next < 0) continue;
    Scratch::Symbol& right = symbols[static_cast<size_t>(left.next)];
    ++scratch.n_steps_;
    const MergeRule* rule = rule_of(left.id, right.id);
    if (rule == nullptr || rule->merged != top.merged) continue;  // the pair has changed

    left.id = top.merged;
    left.next = right.next;
    right.merged = true;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = at;
    for (const int32_t changed : {left.previous, at}) {
      const size_t n_before = heap.size();
      push_candidate(scratch, changed);
      if (heap.size() != n_before) std::push_heap(heap.begin(), heap.end(), kLater);
    }
  }
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const {
  if (word.empty()) return;
  if (word.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    fail(ErrorCode::kInvalidArgument, "a text of {} bytes without a break, at most 2^31 - 1 fit",
         word.size());
  }
  if (options_.ignore_merges) {
    if (const std::optional<TokenId> id = vocabulary_.id_of(word)) {
      out.push_back(*id);
      return;
    }
  }
  add_symbols(word, scratch);
  merge_symbols(scratch);
  for (const Scratch::Symbol& symbol : scratch.symbols_) {
    if (!symbol.merged) out.push_back(symbol.id);
  }
}

}  // namespace deltacome
