// SPDX-License-Identifier: Apache-2.0
#include "grammar/regex.h"

#include <gtest/gtest.h>

#include "core/utf8.h"
#include "grammar/test_support.h"
#include "tests/support/expect_error.h"

namespace deltacome::grammar {
namespace {

using testing::matches;

struct Case {
  const char* pattern;
  std::vector<std::string> texts;
  std::vector<std::string> others;
};

TEST(Regex, MatchesWholeTexts) {
  const std::vector<Case> cases = {
      {"abc", {"abc"}, {"", "ab", "abcd", "Abc"}},
      {"a|bc|", {"a", "bc", ""}, {"b", "abc"}},
      {"a*b+c?", {"b", "aabbc", "bc"}, {"", "a", "ac", "bcc"}},
      {"(ab){2,3}", {"abab", "ababab"}, {"ab", "abababab", "aba"}},
      {"a{2}", {"aa"}, {"a", "aaa"}},
      {"a{2,}", {"aa", "aaaaaa"}, {"a"}},
      {"(a{0,2}b)*", {"", "b", "aab", "babb"}, {"aaab", "a"}},
      {"(a*)*b", {"b", "aaab"}, {"a"}},
      {"(|a)+b", {"b", "ab", "aab"}, {""}},
      {"[a-cx]", {"a", "c", "x"}, {"d", "-"}},
      {"[^a-c]", {"d", "\n", "é", "\xF0\x9F\x98\x80"}, {"a", "b", "", "dd"}},
      {"[-a]", {"-", "a"}, {"b"}},
      {"[a-]", {"-", "a"}, {"b"}},
      {"[\\]\\-\\\\]", {"]", "-", "\\"}, {"a"}},
      {"[\\d_]+", {"0_9"}, {"a"}},
      {"[à-ÿ]", {"à", "é", "ÿ"}, {"a", "\xC3", "\xC4\x80"}},
      {".", {"a", "é", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"}, {"\n", "\r", "\xE2\x80\xA8", "\xC3"}},
      {"\\d\\D", {"1a", "9 "}, {"11", "a1"}},
      {"\\w+\\W", {"a_0!"}, {"a", "!!"}},
      {"\\s\\S", {" a", "\tb", "\nc"}, {"ab", "  ", " \xC2\xA0"}},
      {"\\x41\\u00e9\\t\\.", {"Aé\t."}, {"A"}},
      {"^a$", {"a"}, {"ba", "ab"}},
      {"^a|b$", {"a", "b"}, {"ab"}},
      {"(?:a|b)(?<n>c)(?P<m>d)", {"acd", "bcd"}, {"cd"}},
      {"a+?b*?", {"a", "aab"}, {"b"}},
      {"\\{\\}\\/", {"{}/"}, {"{}"}},
      {"a}]", {"a}]"}, {"a"}},
      {"(0|[1-9][0-9]*)(\\.[0-9]+)?", {"0", "10.25"}, {"01", "1."}},
  };
  for (const Case& c : cases) {
    const Automaton automaton = compile_regex(c.pattern);
    for (const std::string& text : c.texts)
      EXPECT_TRUE(matches(automaton, text)) << c.pattern << " on " << text;
    for (const std::string& text : c.others)
      EXPECT_FALSE(matches(automaton, text)) << c.pattern << " on " << text;
  }
}

TEST(Regex, ReadsEveryCharacterOfUtf8AndNothingElse) {
  // Random ranges: their ends, and the characters beside them.
  std::mt19937 rng(5);
  std::uniform_int_distribution<char32_t> any(0, 0x10FFFF);
  const auto scalar = [](char32_t c) { return c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF); };
  for (int round = 0; round < 200; ++round) {
    char32_t a = any(rng) >> (round % 4 * 5), b = any(rng) >> (round % 3 * 5);
    if (a > b) std::swap(a, b);
    const CodePoints set{{a, b}};
    Nfa nfa;
    const NfaState start = nfa.add_state(), end = nfa.add_state();
    nfa.accept(end);
    read_code_points(nfa, start, set, Spelling::kPlain, end);
    const CodePoints real = set.intersection(CodePoints::all());
    if (real.empty()) continue;
    const Automaton automaton(nfa, start);
    for (const uint32_t c : {a + 0u, a + 1u, b + 0u, b - 1u, a - 1u, b + 1u, (a + b) / 2u, 0x7Fu,
                             0x800u, 0xFFFFu, 0x10000u}) {
      if (!scalar(c)) continue;
      std::string text;
      append_utf8(c, text);
      EXPECT_EQ(matches(automaton, text), real.contains(c))
          << std::hex << uint32_t{a} << '-' << uint32_t{b} << ' ' << c;
    }
  }
  for (const char* invalid : {"\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                              "\xF5\x80\x80\x80", "\x80", "\xFF"})
    EXPECT_FALSE(matches(compile_regex("[^a]*"), invalid));
}

TEST(Regex, RefusesWhatItDoesNotKnow) {
  const std::pair<const char*, const char*> cases[] = {
      {"(a", "byte 2: a group that does not end"},
      {"a)", "byte 1: a ) that closes nothing"},
      {"[a", "a class that does not end"},
      {"[]a]", "an empty class"},
      {"[z-a]", "end is before its beginning"},
      {"[\\d-z]", "from or to a class"},
      {"*a", "nothing before it to repeat"},
      {"a**", "a repetition of a repetition"},
      {"a*+", "possessive"},
      {"a{3,2}", "end is before its beginning"},
      {"a{2049}", "a count beyond 2048"},
      {"a{x}", "a count without digits"},
      {"a{1", "a count that does not end"},
      {"a{,2}", "a count without digits"},
      {"\\1", "back-references"},
      {"\\ba", "anchors other than"},
      {"\\pL", "an escape that is not supported"},
      {"(?=a)", "look-around"},
      {"(?<=a)b", "look-around"},
      {"(?<!a)b", "look-around"},
      {"(?i)a", "look-around, flags"},
      {"(^a)", "an anchor inside"},
      {"(a$)", "an anchor inside"},
      {"a^b", "an anchor inside"},
      {"a$b", "an anchor inside"},
      {"a\\", "a backslash at the end"},
      {"\\x4", "hexadecimal digits"},
      {"\\ud800", "surrogate"},
      {"[^\\d\\D]", "holds no character"},
      {"\xFF", "not UTF-8 at byte 0"},
      {"a\xC3", "ends within a character"},
      {"", "only the empty text"},
      {"((((((((a{99}){99}){99}){99}){99}){99}){99}){99})", "too large"},
      {"(a|b)*a(a|b){30}", "too large"},
  };
  for (const auto& [pattern, part] : cases)
    test::expect_error(ErrorCode::kInvalidArgument, part, [&, p = pattern] { compile_regex(p); });
  test::expect_error(ErrorCode::kInvalidArgument, "nested more than",
                     [] { compile_regex(std::string(65, '(') + "a" + std::string(65, ')')); });
  test::expect_error(ErrorCode::kInvalidArgument, "at most 16384 are read",
                     [] { compile_regex(std::string(20000, 'a')); });
}

TEST(Choice, IsOneOfTheTexts) {
  const std::string choices[] = {"yes", "no", "nobody", "né"};
  const Automaton automaton = compile_choice(choices);
  for (const std::string& text : choices) EXPECT_TRUE(matches(automaton, text));
  for (const char* text : {"", "ye", "nob", "yesno", "n"}) EXPECT_FALSE(matches(automaton, text));
  const std::string with_empty[] = {"", "a"};
  EXPECT_TRUE(matches(compile_choice(with_empty), ""));
}

TEST(Choice, RefusesNothingAndTooMuch) {
  const auto refused = [](std::vector<std::string> choices, const char* part) {
    test::expect_error(ErrorCode::kInvalidArgument, part, [&] { compile_choice(choices); });
  };
  refused({}, "choice has 0 texts, expected 1 to 4096");
  refused(std::vector<std::string>(4097, "a"), "choice has 4097 texts");
  refused({""}, "only the empty text");
  refused({"a", "\x80"}, "choice 1: not UTF-8");
  refused({std::string(300'000, 'a')}, "at most 262144");
}

}  // namespace
}  // namespace deltacome::grammar
