// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/flat_map.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

namespace deltacome {

struct BpeOptions {
  bool byte_fallback = false;  // an unknown character becomes its bytes, tokens "<0x00>".."<0xFF>"
  bool fuse_unk = false;       // a run of unknown characters becomes one token
  bool ignore_merges = false;  // a word of the vocabulary is that token, whatever the merges say
  std::string unk_token;       // "": unknown characters vanish
};

/// Byte pair encoding as the BPE model of `tokenizers` does it: the pair of lowest rank is merged
/// first, of several the leftmost. O(n log n) in the length of a word. Immutable.
/// Ref: Sennrich et al., arXiv:1508.07909.
class Bpe {
 public:
  using Merge = std::pair<std::string, std::string>;  // its rank is its position

  Bpe() = default;
  /// Throws kCorrupt for a merge or an unk_token whose tokens are not in the vocabulary.
  Bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, const BpeOptions& options);

  /// Memory that calls reuse; one per thread.
  class Scratch {
   public:
    /// Pairs looked at since the beginning, a measure of the work done.
    uint64_t n_steps() const noexcept { return n_steps_; }

   private:
    friend class Bpe;
    struct Symbol {
      TokenId id;
      int32_t previous;  // -1: none
      int32_t next;      // -1: none
      bool merged;       // into the symbol before it
    };
    struct Candidate {
      uint64_t order;  // rank, then position: the least is merged first
      TokenId merged;
    };
    std::vector<Symbol> symbols_;
    std::vector<Candidate> heap_;  // may hold entries whose pair is gone
    uint64_t n_steps_ = 0;
  };

  /// Appends the ids of one word. `word` must be well-formed UTF-8 of less than 2^31 bytes.
  void encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const;

  const Vocabulary& vocabulary() const noexcept { return vocabulary_; }

 private:
  struct MergeRule {
    uint32_t rank = 0;
    TokenId merged = 0;
  };

  void add_symbols(std::string_view word, Scratch& scratch) const;
  void merge_symbols(Scratch& scratch) const;
  void push_candidate(Scratch& scratch, int32_t left) const;
  const MergeRule* rule_of(TokenId left, TokenId right) const noexcept;
  TokenId id_of_character(char32_t code_point) const noexcept;

  static constexpr TokenId kNone = -1;
  Vocabulary vocabulary_;
  BpeOptions options_;
  TokenId unk_id_ = kNone;
  FlatMap<MergeRule> rules_;            // key: left id << 32 | right id
  std::array<TokenId, 0x300> latin_{};  // id of a character by code point, or kNone
  FlatMap<TokenId> characters_;         // the same for the others
  std::array<TokenId, 256> bytes_{};    // id of "<0xNN>", or kNone
};

}  // namespace deltacome
