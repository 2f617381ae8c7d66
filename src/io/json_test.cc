// SPDX-License-Identifier: Apache-2.0
#include "io/json.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace deltacome {
namespace {

using test::expect_error;

void expect_corrupt(std::string_view text, const std::string& part) {
  expect_error(ErrorCode::kCorrupt, part, [&] { parse_json_object(text, "x.json"); });
}

std::string nested(int depth) {
  return std::string(R"({"a":)") + std::string(static_cast<size_t>(depth - 1), '[') +
         std::string(static_cast<size_t>(depth - 1), ']') + "}";
}

TEST(Json, TakesOneObjectAndNothingElse) {
  EXPECT_EQ(parse_json_object(R"( {"a": [1, {"a": 2}]} )", "x.json")["a"][1]["a"], 2);
  expect_corrupt("", "x.json: not valid JSON");
  expect_corrupt("[1]", "x.json: got JSON array, expected an object");
  expect_corrupt("{} {}", "not valid JSON");
  expect_corrupt(R"({"a":1,})", "not valid JSON at byte 8");
  expect_corrupt(R"({"a":1e999})", "a number is out of range");
  expect_corrupt(std::string_view("{}\0{", 4), "a zero byte at offset 2");
  expect_corrupt("{\"\xff\":1}", "not valid JSON");  // not UTF-8
}

TEST(Json, RejectsANameThatOccursTwiceInOneObjectOnly) {
  EXPECT_NO_THROW(parse_json_object(R"({"a":{"b":1},"b":{"b":2}})", "x.json"));
  expect_corrupt(R"({"a":1,"b":{},"a":1})", R"(x.json: "a" occurs twice)");
  expect_corrupt(R"({"c":[{"b":1,"\u0062":2}]})", R"("b" occurs twice)");  // the same name escaped
}

TEST(Json, LimitsNesting) {
  EXPECT_NO_THROW(parse_json_object(nested(64), "x.json"));
  expect_corrupt(nested(65), "nested more than 64 deep");
  expect_corrupt("{\"a\":" + std::string(1 << 20, '['), "nested more than 64 deep");
}

TEST(Json, QuotesUntrustedTextOnOneShortLine) {
  EXPECT_EQ(quote("q_proj"), "\"q_proj\"");
  EXPECT_EQ(quote("a\nb\x1b"), "\"a\\nb\\u001b\"");
  EXPECT_EQ(quote("\xff"), "\"\\ufffd\"");
  EXPECT_LT(quote(std::string(100000, 'x')).size(), 120u);
  EXPECT_EQ(describe(nlohmann::json::object()), "an object");
  EXPECT_EQ(describe(nlohmann::json(1.5)), "1.5");
  EXPECT_EQ(describe(nlohmann::json(std::vector<int>(1000))), "a long array");
}

}  // namespace
}  // namespace deltacome
