// SPDX-License-Identifier: Apache-2.0
// Constraints on answers of an engine, and on the tokens of real tokenizers.
#include "engine/constraints.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <regex>

#include "engine/test_support.h"
#include "engine/text_assets.h"
#include "grammar/compile.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

using grammar::has_bit;
using nlohmann::json;
using testing::Collector;

constexpr const char* kSchema = R"({"type":"object","properties":{"name":{"type":"string",
  "maxLength":12},"age":{"type":"integer","minimum":0,"maximum":150},"tags":{"type":"array",
  "items":{"enum":["a","b","é"]},"maxItems":3}},"required":["name","age","tags"]})";

EngineOptions options(int64_t kv_cache_bytes = 64 << 20) {
  return {.base = testing::small_base(),
          .n_threads = 2,
          .kv_cache_bytes = kv_cache_bytes,
          .max_sequences = 8,
          .step_tokens = 64};
}

EngineRequest request(const Engine& engine, std::optional<Constraint> constraint, uint64_t seed) {
  EngineRequest r{.prompt = engine.encode("", "### Instruction:\nNumber " + std::to_string(seed)),
                  .max_tokens = 300};
  r.sampling.seed = seed;
  r.sampling.temperature = 1.5;  // far from what the model would write
  r.constraint = std::move(constraint);
  return r;
}

void expect_valid(const std::string& text) {
  const json value = json::parse(text, nullptr, false);
  ASSERT_TRUE(value.is_object()) << text;
  EXPECT_LE(value.at("name").get<std::string>().size(), 48u);
  EXPECT_GE(value.at("age").get<int>(), 0);
  EXPECT_LE(value.at("age").get<int>(), 150);
  EXPECT_LE(value.at("tags").size(), 3u);
  EXPECT_EQ(value.size(), 3u);
  for (const json& tag : value["tags"]) EXPECT_TRUE(tag == "a" || tag == "b" || tag == "é") << text;
}

Constraint schema(const char* text) {
  return {.kind = Constraint::Kind::kJsonSchema, .text = text};
}

TEST(Constraint, HoldsForEveryAnswer) {
  Engine engine(options());
  const std::regex date("\\d{4}-\\d\\d-\\d\\d");
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const Answer object = engine.generate(request(engine, schema(kSchema), seed))[0];
    EXPECT_EQ(object.finish, FinishReason::kStop);
    EXPECT_FALSE(object.events.back().stop_id);  // it ended with its last token
    expect_valid(object.text);
    const Answer day = engine.generate(request(
        engine, Constraint{.kind = Constraint::Kind::kRegex, .text = "[12]\\d{3}-0[1-9]-[12]\\d"},
        seed))[0];
    EXPECT_EQ(day.finish, FinishReason::kStop);
    EXPECT_TRUE(std::regex_match(day.text, date)) << day.text;
    const Answer choice = engine.generate(request(
        engine, Constraint{.kind = Constraint::Kind::kChoice, .choices = {"yes", "no", "né"}},
        seed))[0];
    EXPECT_TRUE(choice.text == "yes" || choice.text == "no" || choice.text == "né") << choice.text;
    const Answer call = engine.generate(request(
        engine,
        Constraint{.kind = Constraint::Kind::kToolCalls,
                   .tools = {{"f", R"({"type":"object","properties":{"x":{"type":"boolean"}},
                                    "required":["x"]})"}},
                   .begin = "<tool_call>\n",
                   .end = "\n</tool_call>"},
        seed))[0];
    std::smatch m;
    const std::regex form("<tool_call>\n([^]*)\n</tool_call>");
    ASSERT_TRUE(std::regex_match(call.text, m, form)) << call.text;
    EXPECT_TRUE(json::parse(m[1].str())["arguments"]["x"].is_boolean());
  }
}

/// Constrained answers are what they are alone, and so are the others beside them; with preemption.
TEST(Constraint, DoesNotDependOnTheBatch) {
  std::vector<EngineRequest> requests;
  std::vector<std::vector<Answer>> alone;
  {
    Engine engine(options());
    for (uint64_t i = 0; i < 12; ++i) {
      EngineRequest r =
          request(engine, i % 2 == 0 ? std::optional(schema(kSchema)) : std::nullopt, i);
      if (i % 4 == 1) r.sampling.temperature = 0;
      if (i % 3 == 0) r.n = 2;
      if (i % 5 == 0) r.logprobs = 1;
      r.max_tokens = i % 2 == 0 ? 300 : 60;
      requests.push_back(r);
      alone.push_back(engine.generate(r));
    }
  }
  Engine engine(options(1 << 20));  // few blocks
  std::vector<std::unique_ptr<Collector>> collectors;
  for (const EngineRequest& r : requests) {
    collectors.push_back(std::make_unique<Collector>());
    engine.submit(r, collectors.back()->handler());
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto events = collectors[i]->wait(requests[i].n);
    for (int choice = 0; choice < requests[i].n; ++choice) {
      EXPECT_EQ(testing::tokens_of(events, choice), alone[i][static_cast<size_t>(choice)].tokens);
      if (requests[i].constraint) expect_valid(alone[i][static_cast<size_t>(choice)].text);
    }
  }
  EXPECT_GT(engine.stats().preemptions, 0);
}

TEST(Constraint, MeetsTheOtherWaysToEnd) {
  Engine engine(options());
  const auto make = [&](const char* regex) {
    EngineRequest r =
        request(engine, Constraint{.kind = Constraint::Kind::kRegex, .text = regex}, 1);
    r.sampling.temperature = 0;
    return r;
  };
  EngineRequest r = make("[ab]{200}");
  r.max_tokens = 5;
  EXPECT_EQ(engine.generate(r)[0].finish, FinishReason::kLength);
  // Complete before min_tokens: there is nothing to add.
  r = make("ab");
  r.min_tokens = 50;
  Answer answer = engine.generate(r)[0];
  EXPECT_EQ(answer.text, "ab");
  EXPECT_EQ(answer.finish, FinishReason::kStop);
  // It may end from the start, and must not before min_tokens; without an end it goes on.
  r = make("a*");
  r.sampling.logit_bias = {{2, 100.0}};  // </s>
  EXPECT_EQ(engine.generate(r)[0].text, "");
  r.min_tokens = 4;
  answer = engine.generate(r)[0];
  EXPECT_EQ(answer.tokens.size(), 4u);
  EXPECT_EQ(answer.events.back().stop_id, 2);
  r.ignore_eos = true;
  r.max_tokens = 9;
  EXPECT_EQ(engine.generate(r)[0].finish, FinishReason::kLength);
  // An end-of-sequence id is not allowed before the text is complete, whatever its logit.
  r = make("abc");
  r.sampling.logit_bias = {{2, 100.0}};
  EXPECT_EQ(engine.generate(r)[0].text, "abc");
  // Stop texts cut the answer as they cut others.
  r = make("abcd");
  r.stop = {"bc"};
  answer = engine.generate(r)[0];
  EXPECT_EQ(answer.text, "a");
  EXPECT_EQ(answer.events.back().stop_text, "bc");
}

TEST(Constraint, FaultsAreThrownBySubmit) {
  Engine engine(options());
  const auto refused = [&](ErrorCode code, const char* part, const Constraint& c) {
    test::expect_error(code, part, [&] { engine.submit(request(engine, c, 1), {}); });
  };
  refused(ErrorCode::kInvalidArgument, "the keyword \"not\"", schema(R"({"not":{}})"));
  refused(ErrorCode::kInvalidArgument, "regex: regular expression, byte 0",
          {.kind = Constraint::Kind::kRegex, .text = "*"});
  refused(ErrorCode::kInvalidArgument, "choice has 0 texts", {.kind = Constraint::Kind::kChoice});
  Engine without({.base = testing::tiny_base(), .n_threads = 2, .kv_cache_bytes = 16 << 20});
  EngineRequest r{.prompt = {1, 2}};
  r.constraint = Constraint{};
  test::expect_error(ErrorCode::kUnsupported, "no tokenizer.json", [&] { without.submit(r, {}); });
  EXPECT_EQ(engine.stats().requests, 0);
  // No token left: the client has forbidden the only ones.
  r = request(engine, Constraint{.kind = Constraint::Kind::kChoice, .choices = {"a"}}, 1);
  const double never = -std::numeric_limits<double>::infinity();
  const Tokenizer tokenizer = Tokenizer::load(testing::small_base());
  for (const char* token : {"a", "▁a", "▁", "<0x61>", "<0x20>"})
    if (const auto id = tokenizer.id_of(token)) r.sampling.logit_bias.emplace_back(*id, never);
  test::expect_error(ErrorCode::kInvalidArgument, "leave no token to choose",
                     [&] { engine.generate(r); });
}

/// Valid texts, cut into tokens by the tokenizers themselves, are never blocked, and their masks
/// are what every token gives by itself.
TEST(Constraint, AllowsValidTextsAsTokenizersCutThem) {
  const std::pair<Constraint, std::vector<std::string>> cases[] = {
      {schema(kSchema),
       {R"({"name": "Ada", "age": 36, "tags": ["a", "é"]})", R"({"name":"","age":0,"tags":[]})",
        "{\n  \"name\": \"Zoë \\\"Q\\\"\",\n  \"age\": 150,\n  \"tags\": [\n    \"b\"\n  ]\n}",
        "{\n\t\"name\": \"\xF0\x9F\x98\x80 人\",\n\t\"age\": 9,\n\t\"tags\": []\n}"}},
      {Constraint{},
       {R"({"a": [1, -2.5e3, true, null, {"b": {}}], "c": "x\n\u00e9"})", "{}",
        "{\n    \"k\": [\n        [],\n        {\n            \"z\": 0\n        }\n    ]\n}"}},
      {{.kind = Constraint::Kind::kRegex, .text = "(The|A) [a-z]+ (is|was) .*\\."},
       {"The weather is fine, as so often.", "A cat was 人 here."}},
      {{.kind = Constraint::Kind::kChoice, .choices = {"positive", "negative", "not sure"}},
       {"positive", "not sure"}},
  };
  std::vector<std::filesystem::path> directories = {
      testing::small_base(),
      std::filesystem::path(DELTACOME_SOURCE_DIR) / "../shared/testbed/models/small-base"};
  TextCache texts;
  ConstraintCache cache;
  for (const auto& directory : directories) {
    if (!std::filesystem::exists(directory)) continue;
    const auto assets = texts.load(directory, "it");
    const auto tokens = assets->need_token_set();
    for (const auto& [constraint, instances] : cases) {
      const auto masks = cache.get(constraint, tokens);
      for (const std::string& text : instances) {
        grammar::Matcher matcher(masks);
        bool first = true;
        std::vector<int32_t> ids = assets->tokenizer()->encode(text, false);
        EXPECT_EQ(assets->tokenizer()->decode(ids, true), text);
        for (const int32_t id : ids) {
          ASSERT_TRUE(has_bit(matcher.allowed(), id))
              << text << " at " << assets->tokenizer()->token_of(id);
          const auto allowed = matcher.allowed();
          EXPECT_EQ(grammar::Mask(allowed.begin(), allowed.end()),
                    masks->allowed_one_by_one(matcher.position(), first));
          ASSERT_TRUE(matcher.accept(id));
          first = false;
        }
        EXPECT_TRUE(matcher.may_end()) << text;
      }
    }
  }
}

TEST(ConstraintCache, SharesAndForgets) {
  TextCache texts;
  const auto assets = texts.load(testing::small_base(), "it");
  const auto tokens = assets->need_token_set();
  EXPECT_EQ(tokens, texts.load(testing::small_base(), "again")->need_token_set());
  ConstraintCache cache(tokens->bytes() + 200'000);
  const auto first = cache.get(schema("{}"), tokens);
  EXPECT_EQ(cache.get(schema("{}"), tokens), first);
  EXPECT_NE(cache.get({.kind = Constraint::Kind::kRegex, .text = "a"}, tokens), first);
  for (int i = 0; i < 40; ++i)
    cache.get({.kind = Constraint::Kind::kRegex, .text = "[a-z]{" + std::to_string(i + 1) + "}"},
              tokens);
  EXPECT_LT(cache.size(), 30u);
  const auto again = cache.get(schema("{}"), tokens);
  EXPECT_NE(again, first);  // which still works
  EXPECT_EQ(*again->allowed(again->start(), true), *first->allowed(first->start(), true));
  // What would be the same put together is not the same.
  EXPECT_NE(cache.get({.kind = Constraint::Kind::kChoice, .choices = {"a", "b"}}, tokens),
            cache.get({.kind = Constraint::Kind::kChoice, .choices = {"a1:b"}}, tokens));
}

}  // namespace
}  // namespace deltacome
