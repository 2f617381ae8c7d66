// SPDX-License-Identifier: Apache-2.0
#include "text/regex.h"

#include <gtest/gtest.h>

#include "core/utf8.h"
#include "deltacome/error.h"

namespace deltacome {
namespace {

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  std::vector<Span> spans;
  Pattern::regex(pattern).find_all(text, spans);
  std::vector<std::string> out;
  for (const Span& span : spans) out.emplace_back(text.substr(span.begin, span.end - span.begin));
  return out;
}

using Strings = std::vector<std::string>;

TEST(Regex, ClassesAreThoseOfOniguruma) {
  EXPECT_EQ(matches(R"(\s)", "a\u180E\u0085b\u3000"), (Strings{"\u0085", "\u3000"}));
  EXPECT_EQ(matches(R"([^\s]+)", "a\u180E\u0085b"), (Strings{"a\u180E", "b"}));
  EXPECT_EQ(matches(R"(\w+)", "a_\u0301b\u00B2-\u203F!"), (Strings{"a_\u0301b\u00B2", "\u203F"}));
  EXPECT_EQ(matches(R"(\h+)", "xyzabc12 g"), (Strings{"abc12"}));
  EXPECT_EQ(matches(R"(\b1)", "a1 1-1\u00BD1"), (Strings{"1", "1"}));
  EXPECT_EQ(matches(R"(\p{Han}+)", "\u3001\u4E00"), (Strings{"\u4E00"}));
  EXPECT_EQ(matches(R"(\P{^Han}+)", "\u3001\u4E00"), (Strings{"\u4E00"}));
  EXPECT_EQ(matches(R"((?m:a.b))", "a\nb"), (Strings{"a\nb"}));
  EXPECT_EQ(matches(R"(^a)", "a\na"), (Strings{"a", "a"}));
  EXPECT_EQ(matches(R"([]a]+)", "[a]"), (Strings{"a]"}));
  EXPECT_EQ(matches(R"((?i:'s))", "'S'\u017F"), (Strings{"'S", "'\u017F"}));
}

TEST(Regex, EmptyMatchesAdvance) {
  EXPECT_EQ(matches("", "é"), (Strings{"", ""}));
  EXPECT_EQ(matches("a*", "baa"), (Strings{"", "aa"}));
}

TEST(Regex, RejectsWhatHasNoEqual) {
  for (const char* pattern : {"[a&&b]", "[a[b]]", R"([\W])", R"(\K)", "(*FAIL)", "(", "\\"}) {
    EXPECT_THROW(Regex{pattern}, Error) << pattern;
  }
}

TEST(Pattern, ReplacesLiteralsAndMatches) {
  EXPECT_EQ(Pattern::literal("ab").replace_all("aabab", "x"), "axx");
  EXPECT_EQ(Pattern::regex(" +").replace_all("a   b c", "_"), "a_b_c");
}

TEST(Utf8, ReplacesMaximalSubparts) {
  EXPECT_EQ(replace_invalid_utf8("\xF0\x9F\x98"), "\uFFFD");
  EXPECT_EQ(replace_invalid_utf8("\xF0\x9F\x41"), "\uFFFDA");
  EXPECT_EQ(replace_invalid_utf8("\xE0\x80\xAF"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(replace_invalid_utf8(std::string("\0é", 3)), std::string("\0é", 3));
  EXPECT_FALSE(is_valid_utf8("\xC0\xAF"));
  EXPECT_TRUE(is_valid_utf8("é"));
}

}  // namespace
}  // namespace deltacome
