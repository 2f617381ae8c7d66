// SPDX-License-Identifier: Apache-2.0
#include "grammar/token_masks.h"

#include <gtest/gtest.h>

#include "grammar/limits.h"
#include "grammar/test_support.h"

namespace deltacome::grammar {
namespace {

using testing::adversarial_tokens;
using testing::ids_of;
using testing::matches;

std::shared_ptr<const TokenSet> token_set(std::vector<std::optional<std::string>> tokens,
                                          bool drops_first_space = false) {
  return std::make_shared<const TokenSet>(std::move(tokens), drops_first_space);
}

std::shared_ptr<TokenMasks> masks_of(Automaton automaton, std::shared_ptr<const TokenSet> tokens) {
  return std::make_shared<TokenMasks>(std::make_shared<const Automaton>(std::move(automaton)),
                                      std::move(tokens));
}

const std::vector<std::string>& schemas() {
  static const std::vector<std::string> kSchemas = {
      "{}",
      R"({"type":"object"})",
      R"({"type":"object","properties":{"name":{"type":"string"},"ab":{"type":"integer"},
          "é":{"type":"array","items":{"type":"number"}}},"required":["name"]})",
      R"({"type":"array","items":{"type":"string","maxLength":5},"minItems":1,"maxItems":6})",
      R"({"type":"object","properties":{"a":{"enum":["a","ab","abc","é"]}},
          "additionalProperties":{"type":["integer","null"]}})",
      R"({"$ref":"#/$defs/t","$defs":{"t":{"type":"object","properties":{"name":{"type":"string",
          "minLength":2,"maxLength":30},"c":{"type":"array","items":{"$ref":"#/$defs/t"}}},
          "required":["name","c"]}}})",
      R"({"anyOf":[{"type":"object","properties":{"name":{"const":"x"},"v":{"type":"integer"}},
          "required":["name","v"]},{"type":"object","properties":{"name":{"type":"string"},
          "v":{"type":"string"}},"required":["name"]},{"type":"string","pattern":"^a+\"?é*$"}]})",
      R"({"type":"array","prefixItems":[{"type":"integer","minimum":-3,"maximum":1200},
          {"type":"string","format":"date"}],"items":{"type":"boolean"}})",
  };
  return kSchemas;
}

std::vector<Automaton> automata() {
  std::vector<Automaton> out;
  for (const std::string& schema : schemas()) out.push_back(compile_json_schema(schema));
  out.push_back(compile_json_object());
  for (const char* pattern : {".*", "(a|é)*\"", "[a-z ]{1,40}(\\d+,)*", "[^\"]*"})
    out.push_back(compile_regex(pattern));
  const std::string choices[] = {"a", "ab", " a", "name\": ", "é"};
  out.push_back(compile_choice(choices));
  out.push_back(compile_tool_calls({.tools = {{"name", ""}, {"f", schemas()[3]}},
                                    .begin = "<tool_call>",
                                    .end = "</tool",
                                    .max_calls = 2}));
  return out;
}

/// Steps through random texts; `visit` sees every position.
template <class Visit>
void walk(const std::shared_ptr<TokenMasks>& masks, uint32_t seed, int n_steps,
          const Visit& visit) {
  std::mt19937 rng(seed);
  Matcher matcher(masks);
  bool first = true;
  for (int i = 0; i < n_steps; ++i) {
    visit(matcher, first);
    const std::vector<TokenId> ids = ids_of(matcher.allowed());
    if (ids.empty()) {
      ASSERT_TRUE(matcher.must_end());
      return;
    }
    ASSERT_TRUE(matcher.accept(ids[rng() % ids.size()]));
    first = false;
  }
}

TEST(TokenMasks, AreWhatEveryTokenGivesByItself) {
  for (const bool drops_first_space : {false, true}) {
    const auto tokens = token_set(adversarial_tokens(1), drops_first_space);
    for (Automaton& automaton : automata()) {
      const auto masks = masks_of(std::move(automaton), tokens);
      for (uint32_t seed = 0; seed < 6; ++seed) {
        walk(masks, seed, 30, [&](Matcher& matcher, bool first) {
          const auto allowed = matcher.allowed();
          ASSERT_EQ(Mask(allowed.begin(), allowed.end()),
                    masks->allowed_one_by_one(matcher.position(), first))
              << "seed " << seed;
        });
      }
    }
  }
}

/// The same where the stack is nearly full, and what is allowed depends on how full.
TEST(TokenMasks, AreRightAtTheDeepestPlaces) {
  const auto masks = masks_of(compile_json_schema("{}"), token_set(adversarial_tokens(2)));
  for (int depth = kMaxDepth - 8; depth < kMaxDepth; ++depth) {
    const auto position =
        masks->after(masks->start(), std::string(static_cast<size_t>(depth), '['));
    ASSERT_TRUE(position);
    EXPECT_EQ(*masks->allowed(*position, false), masks->allowed_one_by_one(*position, false));
  }
  EXPECT_FALSE(masks->after(masks->start(), std::string(kMaxDepth + 2, '[')));
}

TEST(TokenMasks, AreTheSameAfterOthersWereForgotten) {
  // More positions than masks are kept for: 2,000 depths and names against 16 KiB each.
  auto tokens = adversarial_tokens(3);
  tokens.resize(128'000);
  const auto masks = masks_of(compile_json_object(), token_set(std::move(tokens)));
  const Position start = masks->start();
  const Mask first = *masks->allowed(start, false);
  std::string text;
  for (int i = 0; i < 100; ++i) {
    text += "{\"a\":";
    for (const char* rest : {"", "1", "\"", "\"\\", "tr", "[", "[1,", "{", "{\"\""})
      ASSERT_NE(masks->allowed(*masks->after(start, text + rest), false), nullptr);
  }
  EXPECT_LE(masks->bytes(), size_t{44} << 20);
  EXPECT_EQ(*masks->allowed(start, false), first);
  const Position deep = *masks->after(start, text);
  EXPECT_EQ(ids_of(*masks->allowed(deep, false)), ids_of(masks->allowed_one_by_one(deep, false)));
}

TEST(TokenMasks, LeaveOutSpecialAndOverlongTokens) {
  const auto masks = masks_of(compile_regex("[^b]*"), token_set(adversarial_tokens(4)));
  Matcher matcher(masks);
  const size_t n = masks->tokens().size();
  for (size_t i = n - 3; i < n; ++i) {
    EXPECT_FALSE(has_bit(matcher.allowed(), static_cast<TokenId>(i)));
    EXPECT_FALSE(matcher.accept(static_cast<TokenId>(i)));
  }
  EXPECT_FALSE(matcher.accept(-1));
  EXPECT_FALSE(matcher.accept(static_cast<TokenId>(n)));
  EXPECT_TRUE(matcher.accept('a'));
}

TEST(Matcher, DropsASpaceBeforeTheFirstTokenOnly) {
  const std::string choices[] = {"ab", "a b"};
  for (const bool drops : {true, false}) {
    Matcher matcher(
        masks_of(compile_choice(choices), token_set({" ", " a", "a", "b", " b"}, drops)));
    EXPECT_EQ(ids_of(matcher.allowed()),
              drops ? (std::vector<TokenId>{0, 1, 2}) : (std::vector<TokenId>{2}));
    ASSERT_TRUE(matcher.accept(drops ? 1 : 2));
    EXPECT_EQ(ids_of(matcher.allowed()), (std::vector<TokenId>{0, 3, 4}));
    ASSERT_TRUE(matcher.accept(4));
    EXPECT_TRUE(matcher.must_end());
    EXPECT_TRUE(matcher.allowed().empty() || ids_of(matcher.allowed()).empty());
  }
}

TEST(Matcher, KnowsWhereATextMayAndMustEnd) {
  Matcher matcher(masks_of(compile_regex("a{1,2}"), token_set({"a", "aa", "aaa"})));
  EXPECT_FALSE(matcher.may_end());
  EXPECT_FALSE(matcher.accept(2));
  Matcher copy = matcher;
  ASSERT_TRUE(matcher.accept(0));
  EXPECT_TRUE(matcher.may_end());
  EXPECT_FALSE(matcher.must_end());
  EXPECT_FALSE(matcher.accept(1));
  ASSERT_TRUE(matcher.accept(0));
  EXPECT_TRUE(matcher.must_end());
  EXPECT_FALSE(copy.may_end());
  ASSERT_TRUE(copy.accept(1));
  EXPECT_TRUE(copy.must_end());
}

}  // namespace
}  // namespace deltacome::grammar
