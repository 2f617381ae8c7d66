// SPDX-License-Identifier: Apache-2.0
#include "engine/answer_text.h"

#include <gtest/gtest.h>

namespace deltacome {
namespace {

std::string run(StopMatcher matcher, const std::vector<std::string>& pieces) {
  std::string out;
  for (const std::string& piece : pieces) out += matcher.push(piece) + "|";
  return out + matcher.finish();
}

TEST(StopMatcher, FindsATextAcrossPieces) {
  EXPECT_EQ(run({{"END"}, false}, {"ab", "E", "N", "Dcd", "e"}), "ab|||||");
  EXPECT_EQ(run({{"END"}, true}, {"ab", "E", "N", "Dcd"}), "ab|||END|");
}

TEST(StopMatcher, GivesBackWhatWasNoBeginning) {
  EXPECT_EQ(run({{"END"}, false}, {"EN", "EN", "x", "E"}), "|EN|ENx||E");
  EXPECT_EQ(run({{"aab"}, false}, {"a", "a", "a", "b", "c"}), "||a|||");
}

TEST(StopMatcher, TakesTheFirstInTheText) {
  StopMatcher matcher({"cd", "bc"}, false);
  EXPECT_EQ(matcher.push("abcd"), "a");
  EXPECT_EQ(matcher.found(), "bc");
}

TEST(StopMatcher, WithoutTextsNothingIsHeldBack) {
  EXPECT_EQ(run({{}, false}, {"a", "bc"}), "a|bc|");
}

}  // namespace
}  // namespace deltacome
