// SPDX-License-Identifier: Apache-2.0
#include "text/added_tokens.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace deltacome {
namespace {

/// The segments as text, tokens in brackets.
std::string segments(std::vector<AddedToken> tokens, const std::string& text) {
  TokenId id = 0;
  for (AddedToken& token : tokens) token.id = id++;
  const AddedTokens added(std::move(tokens), Normalizer());
  std::string out;
  for (const auto& segment : added.split_raw(text)) {
    out += segment.token == nullptr ? fmt::format("{{{}}}", segment.text)
                                    : fmt::format("[{}]", segment.text);
  }
  return out;
}

TEST(AddedTokens, LeftmostThenLongest) {
  const std::vector<AddedToken> tokens{{.content = "ab"}, {.content = "abc"}, {.content = "bcd"}};
  EXPECT_EQ(segments(tokens, "xabcd ab"), "{x}[abc]{d }[ab]");
}

TEST(AddedTokens, StripTakesWhiteSpace) {
  const std::vector<AddedToken> tokens{{.content = "<l>", .lstrip = true},
                                       {.content = "<r>", .rstrip = true}};
  EXPECT_EQ(segments(tokens, "a \u3000<l> b <r>\n <l>c"), "{a}[ \u3000<l>]{ b }[<r>\n ][<l>]{c}");
}

TEST(AddedTokens, SingleWordNeedsEdges) {
  const std::vector<AddedToken> tokens{{.content = "word", .single_word = true}};
  EXPECT_EQ(segments(tokens, "word sword words (word) w\u00F6rd_word"),
            "[word]{ sword words (}[word]{) w\u00F6rd_word}");
}

TEST(AddedTokens, NormalizedAreFoundAfterNormalization) {
  const AddedTokens added({{.id = 5, .content = "DAY", .normalized = true}},
                          Normalizer({LowercaseStep{}}));
  EXPECT_EQ(added.split_raw("DAY").front().token, nullptr);
  ASSERT_EQ(added.split_normalized("a day").size(), 2u);
  EXPECT_EQ(added.split_normalized("a day")[1].token->id, 5);
  EXPECT_EQ(added.find(5)->decoded, "day");
  EXPECT_EQ(added.find("DAY")->id, 5);
  EXPECT_EQ(added.find(6), nullptr);
}

}  // namespace
}  // namespace deltacome
