// SPDX-License-Identifier: Apache-2.0
#include "text/bpe.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "deltacome/error.h"

namespace deltacome {
namespace {

using Ids = std::vector<TokenId>;

/// a, b, c and merges of random pairs of what there is.
Bpe random_bpe(unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::string> tokens{"a", "b", "c"};
  std::vector<Bpe::Merge> merges;
  for (int i = 0; i < 25; ++i) {
    const std::string left = tokens[random() % tokens.size()];
    const std::string right = tokens[random() % tokens.size()];
    merges.emplace_back(left, right);
    if (std::find(tokens.begin(), tokens.end(), left + right) == tokens.end()) {
      tokens.push_back(left + right);
    }
  }
  std::vector<std::pair<std::string, TokenId>> entries;
  for (size_t i = 0; i < tokens.size(); ++i) entries.emplace_back(tokens[i], static_cast<int>(i));
  return Bpe(Vocabulary(std::move(entries)), merges, {});
}

TEST(Bpe, DoesLittleWorkOnALongWord) {
  const Bpe bpe = random_bpe(1);
  std::mt19937 random(2);
  std::string word;
  for (int i = 0; i < 200'000; ++i) word += static_cast<char>('a' + random() % 3);
  Bpe::Scratch scratch;
  Ids ids;
  bpe.encode(word, scratch, ids);
  EXPECT_LT(scratch.n_steps(), 12 * word.size());
  std::string back;
  for (const TokenId id : ids) back += *bpe.vocabulary().token_of(id);
  EXPECT_EQ(back, word);
}

TEST(Bpe, ReusedScratchGivesTheSame) {
  const Bpe bpe = random_bpe(3);
  Bpe::Scratch reused;
  Ids one;
  Ids two;
  for (const char* word : {"abcabc", "a", "", "ccccccc", "abacabadabacaba"}) {
    Bpe::Scratch fresh;
    bpe.encode(word, reused, one);
    bpe.encode(word, fresh, two);
  }
  EXPECT_EQ(one, two);
}

TEST(Bpe, LeftmostOfEqualRanksIsFirst) {
  const Bpe bpe(Vocabulary({{"a", 0}, {"aa", 1}}), {{"a", "a"}}, {});
  Bpe::Scratch scratch;
  Ids ids;
  bpe.encode("aaa", scratch, ids);
  EXPECT_EQ(ids, (Ids{1, 0}));
}

TEST(Vocabulary, RejectsTokensAndIdsThatOccurTwice) {
  EXPECT_THROW(Vocabulary({{"a", 0}, {"a", 1}}), Error);
  EXPECT_THROW(Vocabulary({{"a", 0}, {"b", 0}}), Error);
}

TEST(Vocabulary, InQuotesCutsBetweenCharacters) {
  EXPECT_EQ(in_quotes("short"), "\"short\"");
  EXPECT_EQ(in_quotes(std::string(63, 'a') + "éé"), fmt::format("\"{}...\"", std::string(63, 'a')));
}

}  // namespace
}  // namespace deltacome
