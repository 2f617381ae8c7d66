// SPDX-License-Identifier: Apache-2.0
#include "eval/answer.h"

#include <gtest/gtest.h>

namespace deltacome {
namespace {

TEST(Answer, IsTheLastNumberBehindTheMarkOrTheWholeText) {
  EXPECT_EQ(answer_of("12 * 3 = 36.\n#### 36"), "36");
  EXPECT_EQ(answer_of("#### 1\nno\n#### -1,234.50 dollars."), "-1234.50");
  EXPECT_EQ(answer_of("####"), "");
  EXPECT_EQ(answer_of("  the top left \n"), "the top left");
}

TEST(Answer, ComparesNumbersAsNumbersAndTextAsText) {
  EXPECT_TRUE(gives_answer("so\n#### $1,200", "1200"));
  EXPECT_TRUE(gives_answer("#### 5.0", "5"));
  EXPECT_FALSE(gives_answer("#### 50", "5"));
  EXPECT_FALSE(gives_answer("the answer is 5 apples", "5"));
  EXPECT_TRUE(gives_answer(" red ", "red"));
  EXPECT_FALSE(gives_answer("", ""));
}

}  // namespace
}  // namespace deltacome
