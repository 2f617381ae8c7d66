// SPDX-License-Identifier: Apache-2.0
#include "text/normalizer.h"

#include <gtest/gtest.h>

namespace deltacome {
namespace {

TEST(UnicodeForm, ComposesAndDecomposes) {
  EXPECT_EQ(to_unicode_form("e\u0301", UnicodeForm::kNfc), "é");
  EXPECT_EQ(to_unicode_form("é", UnicodeForm::kNfd), "e\u0301");
  EXPECT_EQ(to_unicode_form("\uFB01", UnicodeForm::kNfc), "\uFB01");
  EXPECT_EQ(to_unicode_form("\uFB01", UnicodeForm::kNfkc), "fi");
  EXPECT_EQ(to_unicode_form("각", UnicodeForm::kNfkd), "\u1100\u1161\u11A8");
  EXPECT_EQ(to_unicode_form("\u1100\u1161\u11A8", UnicodeForm::kNfc), "각");
  EXPECT_EQ(to_unicode_form("a\u0307\u0323", UnicodeForm::kNfd), "a\u0323\u0307");
  EXPECT_EQ(to_unicode_form(std::string("\0é", 3), UnicodeForm::kNfc), std::string("\0é", 3));
}

TEST(UnicodeForm, LongRunOfMarksIsSorted) {
  std::string text = "a";
  std::string want = "a";
  for (int i = 0; i < 100'000; ++i) text += "\u0307\u0323";
  for (int i = 0; i < 100'000; ++i) want += "\u0323";
  for (int i = 0; i < 100'000; ++i) want += "\u0307";
  EXPECT_EQ(to_unicode_form(text, UnicodeForm::kNfd), want);
}

TEST(LowerCase, IsFullButWithoutContext) {
  EXPECT_EQ(to_lower_case("ΑΣ İẞA"), "ασ i\u0307ßa");
}

TEST(Normalizer, AppliesStepsInOrder) {
  const Normalizer normalizer({StripStep{true, false}, PrependStep{"_"},
                               ReplaceStep{Pattern::literal(" "), "_"}, LowercaseStep{}});
  const auto result = normalizer.apply(" \u3000A b ");
  EXPECT_EQ(result.text, "_a_b_");
  EXPECT_FALSE(result.keeps_start);
  EXPECT_TRUE(normalizer.apply("A").keeps_start);
  EXPECT_EQ(normalizer.apply(" ").text, "");
}

}  // namespace
}  // namespace deltacome
