// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "grammar/reader.h"
#include "grammar/token_trie.h"

namespace deltacome::grammar {

using Mask = std::vector<uint32_t>;  // bit i of word i / 32: token i

/// Which tokens an automaton allows where. What a state allows by itself is found once, then only
/// what comes after the end of its rule depends on the stack; whole masks are kept too.
/// Thread-safe.
class TokenMasks {
 public:
  TokenMasks(std::shared_ptr<const Automaton> automaton, std::shared_ptr<const TokenSet> tokens);

  const TokenSet& tokens() const noexcept { return *tokens_; }
  const Automaton& automaton() const noexcept { return *automaton_; }

  /// Finds beforehand what the first `n_states` states allow by themselves, and the first mask.
  /// Others wait for one state at most.
  void prepare(size_t n_states);

  Position start();
  /// The tokens that may come next; `first`: at the start of the text (drops_first_space()).
  std::shared_ptr<const Mask> allowed(const Position& position, bool first);
  /// The position after a token; nothing if it is not allowed, which need not have been asked.
  std::optional<Position> after(const Position& position, TokenId token, bool first);
  std::optional<Position> after(const Position& position, std::string_view text);
  /// The same as allowed(), from every token by itself: what tests compare with. Slow.
  Mask allowed_one_by_one(const Position& position, bool first);

  size_t bytes() const;  // of memory, without the automaton and the tokens

 private:
  /// What is allowed at a state, whoever called its rule.
  struct Local {
    std::vector<TokenId> few;  // if there are few; else
    Mask many;
    std::vector<TokenTrie::Node> returns;  // nodes, with more below, at which the rule may be over
    bool special_trie = false;             // of that trie, not of the trie of all tokens
    int deepest = 0;                       // the depth that it needs below the caller's
  };
  struct Key {
    Position position;
    bool first;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const noexcept;
  };
  struct Entry {
    std::shared_ptr<const Mask> mask;
    std::list<const Key*>::iterator used;
  };

  const Local& local(Automaton::State state);
  void add_local(const Local& local, Mask& mask) const;
  void add_thread(const Thread& thread, Mask& mask);
  void add_from(const Position& position, Mask& mask);
  void keep(const Key& key, std::shared_ptr<const Mask> mask);
  /// Walks the tokens below `node` that can be read from `start`; on_node(node, place).
  template <class OnNode>
  void walk(const TokenTrie& trie, TokenTrie::Node node, const Reader::Place& start,
            int plain_chars, const OnNode& on_node);

  const std::shared_ptr<const Automaton> automaton_;
  const std::shared_ptr<const TokenSet> tokens_;
  mutable std::mutex mutex_;
  Reader reader_;
  std::vector<std::unique_ptr<const Local>> locals_;  // by state
  std::unordered_map<Key, Entry, KeyHash> masks_;
  std::list<const Key*> used_;  // the last used first
  size_t local_bytes_ = 0, mask_bytes_ = 0;

  struct Level {
    Thread single;  // the only thread, if `is_single`; `place` is not filled in then
    Reader::Place place;
    Reader::Mark mark;
    bool is_single;
  };
  std::vector<Level> levels_;  // by depth in the trie
};

inline void set_bit(Mask& mask, TokenId id) noexcept {
  mask[static_cast<size_t>(id) / 32] |= 1u << (static_cast<uint32_t>(id) % 32);
}
inline bool has_bit(std::span<const uint32_t> mask, TokenId id) noexcept {
  const auto word = static_cast<size_t>(id) / 32;
  return id >= 0 && word < mask.size() &&
         ((mask[word] >> (static_cast<uint32_t>(id) % 32)) & 1) != 0;
}

/// Where one answer stands. One thread; copies are cheap.
class Matcher {
 public:
  explicit Matcher(std::shared_ptr<TokenMasks> masks)
      : masks_(std::move(masks)), position_(masks_->start()) {}

  /// The tokens that may come next; valid until accept().
  std::span<const uint32_t> allowed();
  /// False, and nothing has changed, if the token is not allowed.
  bool accept(TokenId token);
  bool may_end() const noexcept { return position_.may_end; }
  /// The text is complete and nothing can be added to it.
  bool must_end() const noexcept { return position_.may_end && position_.threads.empty(); }
  const Position& position() const noexcept { return position_; }

 private:
  std::shared_ptr<TokenMasks> masks_;
  Position position_;
  bool first_ = true;
  std::shared_ptr<const Mask> allowed_;
};

}  // namespace deltacome::grammar
