// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "grammar/limits.h"
#include "grammar/test_support.h"
#include "tests/support/expect_error.h"

namespace deltacome::grammar {
namespace {

using testing::matches;

struct Case {
  std::string schema;
  std::vector<std::string> texts;
  std::vector<std::string> others;
};

void check(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    const Automaton automaton = compile_json_schema(c.schema);
    for (const std::string& text : c.texts)
      EXPECT_TRUE(matches(automaton, text)) << c.schema << " on " << text;
    for (const std::string& text : c.others)
      EXPECT_FALSE(matches(automaton, text)) << c.schema << " on " << text;
  }
}

TEST(JsonSchema, Types) {
  check({
      {R"({"type":"null"})", {"null"}, {"nul", "0", "nulll", " null"}},
      {R"({"type":"boolean"})", {"true", "false"}, {"True", "1"}},
      {R"({"type":"integer"})",
       {"0", "-1", "10", "123456789012345678"},
       {"-0", "01", "1.0", "+1", "1e3", "", "-", "1234567890123456789"}},
      {R"({"type":"number"})",
       {"0", "-0", "-0.5", "1e5", "1.25E-7", "12"},
       {".5", "1.", "01", "1e", "e1", "1e123", "NaN"}},
      {R"({"type":"string"})",
       {R"("")", R"("a b")", R"("\n\u0000\/\"\\")", R"("\ud83d\ude00")", "\"é\xF0\x9F\x98\x80\""},
       {"a", "\"", "\"a", "\"\n\"", R"("\x")", R"("\ud83d")", R"("\ude00")", R"("\u12")",
        "\"\xC3\"", "\"\xED\xA0\x80\"", "\"\xFF\"", R"("a"b)"}},
      {R"({"type":["string","null"]})", {R"("a")", "null"}, {"1"}},
      {R"({"type":["integer","number"]})", {"1", "1.5"}, {"true"}},
      {"{}", {"1", R"("a")", "null", "[]", R"({"a": [1, {"b": null}]})"}, {"a", ""}},
      {"true", {"1", "{}"}, {"a"}},
  });
}

TEST(JsonSchema, WhiteSpaceIsBounded) {
  const std::string schema = R"({"type":"object","properties":{"a":{"type":"array"},"b":{}},
                                 "required":["a","b"]})";
  check({{schema,
          {R"({"a":[],"b":1})", R"({"a": [1, 2], "b": {}})", R"({ "a": [ ], "b": 1 })",
           "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": 1\n}", "{\n\"a\":[],\n\t\"b\":1\n}",
           "{\n" + std::string(32, ' ') + "\"a\":[],\"b\":1}"},
          {R"({"a" :[],"b":1})", R"({"a":  [],"b":1})", R"({"a":[] ,"b":1})", R"( {"a":[],"b":1})",
           "{\"a\":[],\"b\":1}\n", R"({  "a":[],"b":1})", "{\n\n\"a\":[],\"b\":1}",
           "{\n" + std::string(33, ' ') + "\"a\":[],\"b\":1}", "{\"a\":\n[],\"b\":1}"}}});
}

TEST(JsonSchema, Strings) {
  check({
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {R"("ab")", R"("abc")", R"("é€")", R"("\n\u00e9\ud83d\ude00")", "\"\xF0\x9F\x98\x80x\""},
       {R"("a")", R"("abcd")", R"("é")", R"("\u00e9")"}},
      {R"({"minLength":1})", {R"("a")", "\"" + std::string(5000, 'a') + '"'}, {R"("")"}},
      {R"({"type":"string","maxLength":0})", {R"("")"}, {R"("a")"}},
      {R"({"type":"array","items":{"type":"string","maxLength":1},
           "prefixItems":[{"type":"string","maxLength":3}]})",
       {R"(["abc","d"])", R"(["","",""])"},
       {R"(["abcd"])", R"(["a","bc"])"}},
      {R"({"type":"string","pattern":"^[a-z]+$"})", {R"("abc")"}, {R"("")", R"("aB")"}},
      {R"({"type":"string","pattern":"b"})", {R"("b")", R"("abc")", R"("\"b")"}, {R"("ac")"}},
      {R"({"type":"string","pattern":"^a|b$"})", {R"("ac")", R"("cb")"}, {R"("cbd")"}},
      {R"({"type":"string","pattern":"^[^a]$"})",
       {R"("b")", R"("\"")", R"("\\")", R"("\n")", R"("\u0001")", "\"é\""},
       {R"("a")", "\"\"\"", "\"\n\"", R"("\u0062")"}},
      {R"({"type":"string","pattern":"^\"\\\\n$"})", {R"("\"\\n")"}, {R"("\"\n")"}},
      {R"({"type":"string","format":"date"})",
       {R"("2024-02-29")", R"("2000-02-29")", R"("1999-12-31")", R"("0004-02-29")"},
       {R"("2023-02-29")", R"("1900-02-29")", R"("2024-04-31")", R"("2024-13-01")", R"("2024-1-1")",
        R"("0000-01-01")"}},
      {R"({"type":"string","format":"time"})",
       {R"("23:59:59Z")", R"("00:00:00.123456+05:30")"},
       {R"("24:00:00Z")", R"("12:00")", R"("12:00:60Z")"}},
      {R"({"type":"string","format":"date-time"})",
       {R"("2024-02-29T12:00:00Z")"},
       {R"("2024-02-29 12:00:00Z")", R"("2024-02-29")"}},
      {R"({"type":"string","format":"duration"})",
       {R"("P1D")", R"("PT5M")", R"("P1Y2M3DT4H5M6S")", R"("P2W")"},
       {R"("P")", R"("PT")", R"("P1DT")", R"("1D")"}},
      {R"({"type":"string","format":"uuid"})",
       {R"("123e4567-e89b-12d3-A456-426614174000")"},
       {R"("123e4567e89b12d3a456426614174000")", R"("123e4567-e89b-12d3-a456-42661417400g")"}},
      {R"({"type":"string","format":"email"})",
       {R"("a.b+c@example.org")"},
       {R"("a@b")", R"("a..b@c.d")", R"("@c.d")", R"("a@-b.c")"}},
      {R"({"type":"string","format":"hostname"})", {R"("a-b.example")"}, {R"("-a")", R"("a..b")"}},
      {R"({"type":"string","format":"ipv4"})",
       {R"("0.10.255.1")"},
       {R"("256.0.0.1")", R"("01.0.0.1")", R"("1.2.3")"}},
      {R"({"type":"string","format":"ipv6"})",
       {R"("::")", R"("::1")", R"("2001:db8::8a2e:370:7334")", R"("1:2:3:4:5:6:7:8")"},
       {R"(":::")", R"("1:2:3:4:5:6:7:8:9")", R"("1::2::3")", R"("12345::")"}},
      {R"({"type":"string","format":"uri"})",
       {R"("https://example.org/a?b=c#d%20")"},
       {R"("example.org")", R"("https://")", R"("https://a/%2")"}},
  });
}

TEST(JsonSchema, NumbersInBounds) {
  check({
      {R"({"type":"integer","minimum":-5,"maximum":120})",
       {"-5", "-1", "0", "9", "10", "99", "100", "119", "120"},
       {"-6", "121", "200", "1000", "-10", "-0", "05"}},
      {R"({"type":"integer","exclusiveMinimum":0})", {"1", "99999"}, {"0", "-1"}},
      {R"({"type":"integer","maximum":-17})", {"-17", "-18", "-100"}, {"-16", "0", "17", "-1"}},
      {R"({"type":"integer","minimum":0.5,"exclusiveMaximum":3.5})", {"1", "3"}, {"0", "4"}},
      {R"({"type":"integer","minimum":12345,"maximum":67890})",
       {"12345", "12346", "20000", "67890"},
       {"12344", "67891", "1234", "123456"}},
      {R"({"type":"number","minimum":0,"maximum":1})",
       {"0", "0.5", "1", "1.0", "0.999"},
       {"-0.1", "1.01", "2", "1e0"}},
      {R"({"type":"number","exclusiveMinimum":0,"exclusiveMaximum":2})",
       {"0.001", "1", "1.999"},
       {"0", "0.0", "2", "2.0", "-1"}},
      {R"({"type":"number","minimum":-2,"exclusiveMaximum":-1})",
       {"-2", "-2.0", "-1.5", "-1.001"},
       {"-1", "-1.0", "-2.1", "0"}},
      {R"({"type":"number","minimum":-1,"maximum":1})", {"-0.5", "-1", "1", "0"}, {"-1.5", "1.5"}},
      {R"({"type":"number","minimum":5})", {"5", "5.5", "1000"}, {"4.9", "-5"}},
      {R"({"minimum":1,"maximum":1})", {"1", "1.0"}, {"2"}},
  });
  // Every bound of a small range against every number.
  for (int a = -12; a <= 12; a += 3) {
    for (int b = a; b <= 112; b += 13) {
      const Automaton automaton =
          compile_json_schema(R"({"type":"integer","minimum":)" + std::to_string(a) +
                              R"(,"maximum":)" + std::to_string(b) + '}');
      for (int i = -30; i <= 130; ++i)
        EXPECT_EQ(matches(automaton, std::to_string(i)), a <= i && i <= b) << a << ' ' << b;
    }
  }
}

TEST(JsonSchema, Objects) {
  check({
      {R"({"type":"object"})", {"{}", R"({"a":1})"}, {"[]", "{", R"({"a"})", R"({"a":1,})"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}}})",
       {"{}", R"({"a":1})", R"({"b":"x"})", R"({"a":1,"b":"x"})"},
       {R"({"b":"x","a":1})", R"({"a":"x"})", R"({"c":1})", R"({"a":1,})", R"({,"a":1})"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"},
           "c":{"type":"integer"}},"required":["b"]})",
       {R"({"b":1})", R"({"a":1,"b":2})", R"({"b":2,"c":3})", R"({"a":1,"b":2,"c":3})"},
       {"{}", R"({"a":1})", R"({"a":1,"c":3})", R"({"c":3})"}},
      {R"({"required":["x"]})", {R"({"x":[1]})"}, {"{}", R"({"y":1})"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"}})",
       {"{}", R"({"a":1,"é":2})"},
       {R"({"a":"b"})"}},
      {R"({"type":"object","additionalProperties":false})", {"{}"}, {R"({"a":1})"}},
      {R"({"type":"object","properties":{"ab":{"type":"integer"},"é\"":{"type":"null"}},
           "additionalProperties":{"type":"string"}})",
       {"{}", R"({"ab":1,"a":"x","abc":"y","":"z"})", R"({"é\"":null,"é":"x"})", R"({"\n":"x"})"},
       {R"({"ab":"x"})", R"({"a":1})", R"({"\u0061b":"x"})", R"({"é\"":"x"})",
        R"({"a":"x","ab":1})"}},
      {R"({"type":"object","properties":{"a":false,"b":true}})",
       {"{}", R"({"b":0})"},
       {R"({"a":1})"}},
      {R"({"type":"object","properties":{"a":{"type":"object","properties":
           {"b":{"type":"integer"}},"required":["b"]}},"required":["a"]})",
       {R"({"a":{"b":1}})"},
       {R"({"a":{}})", R"({"a":{"b":1})"}},
  });
}

TEST(JsonSchema, Arrays) {
  check({
      {R"({"type":"array"})", {"[]", R"([1,"a",[]])"}, {"{}", "[1,]", "[,1]"}},
      {R"({"type":"array","items":{"type":"integer"}})", {"[]", "[1, 2,3]"}, {R"(["a"])"}},
      {R"({"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":3})",
       {"[1,2]", "[1,2,3]"},
       {"[]", "[1]", "[1,2,3,4]"}},
      {R"({"type":"array","items":{"type":"number"},"minItems":6,"maxItems":8})",
       {"[1,2,3,4,5,6]", "[1.5,2,3,4,5,6,7,8e1]"},
       {"[1,2,3,4,5]", "[1,2,3,4,5,6,7,8,9]", "[]"}},
      {R"({"items":{"type":"integer"},"minItems":7})",
       {"[1,2,3,4,5,6,7]", "[1,2,3,4,5,6,7,8,9,10]"},
       {"[1,2,3,4,5,6]", "[]"}},
      {R"({"type":"array","maxItems":0})", {"[]"}, {"[1]"}},
      {R"({"prefixItems":[{"type":"integer"},{"type":"string"}]})",
       {"[]", "[1]", R"([1,"a"])"},
       {R"(["a"])", R"([1,"a",2])", "[1,2]"}},
      {R"({"prefixItems":[{"type":"integer"}],"items":{"type":"string"},"minItems":1})",
       {"[1]", R"([1,"a","b"])"},
       {"[]", "[1,2]"}},
      {R"({"prefixItems":[{"type":"integer"}],"items":false,"minItems":1})", {"[1]"}, {"[1,2]"}},
      {R"({"type":"array","items":{"type":"array","items":{"type":"boolean"}},"uniqueItems":false})",
       {"[[true],[]]"},
       {"[true]"}},
  });
}

TEST(JsonSchema, EnumsAndConstants) {
  check({
      {R"({"enum":["a",1,null,{"x":[1,2]}]})",
       {R"("a")", "1", "null", R"({"x":[1,2]})", R"({"x": [1, 2]})"},
       {R"("b")", "2", R"({"x":[1]})"}},
      {R"({"const":"é\"\n"})", {R"("é\"\n")"}, {R"("é")"}},
      {R"({"type":"string","enum":["a",1,"b"]})", {R"("a")", R"("b")"}, {"1"}},
      {R"({"type":"integer","enum":[1,2.0,2.5]})", {"1", "2.0"}, {"2.5"}},
      {R"({"const":{}})", {"{}"}, {"[]"}},
      {R"({"allOf":[{"enum":[1,2]},{"enum":[2,3]}]})", {"2"}, {"1", "3"}},
  });
}

TEST(JsonSchema, References) {
  check({
      {R"({"$ref":"#/$defs/a","$defs":{"a":{"type":"integer"}}})", {"1"}, {R"("a")"}},
      {R"({"type":"object","properties":{"next":{"$ref":"#"}}})",
       {"{}", R"({"next":{"next":{}}})"},
       {R"({"next":1})"}},
      {R"({"$ref":"#/definitions/a~1b~0","definitions":{"a/b~":{"type":"array",
           "items":{"anyOf":[{"type":"integer"},{"$ref":"#/definitions/a~1b~0"}]}}}})",
       {"[]", "[1,[2,[[]]]]"},
       {"1", R"([["a"]])"}},
      {R"({"anyOf":[{"type":"integer"},{"type":"string"}],"$ref":"#/anyOf/0"})", {"1"}, {R"("a")"}},
      // Two that need each other.
      {R"({"$ref":"#/$defs/tree","$defs":{
           "tree":{"type":"object","properties":{"value":{"type":"integer"},
                   "children":{"$ref":"#/$defs/forest"}},"required":["value","children"]},
           "forest":{"type":"array","items":{"$ref":"#/$defs/tree"}}}})",
       {R"({"value":1,"children":[{"value":2,"children":[]}]})"},
       {R"({"value":1,"children":[{"value":2}]})"}},
  });
}

TEST(JsonSchema, Combinations) {
  check({
      {R"({"anyOf":[{"type":"integer"},{"type":"object","properties":{"a":{"type":"null"}}}]})",
       {"1", R"({"a":null})"},
       {"null"}},
      {R"({"oneOf":[{"type":"object","properties":{"k":{"const":"x"},"v":{"type":"integer"}},
                     "required":["k","v"]},
                    {"type":"object","properties":{"k":{"const":"y"},"v":{"type":"string"}},
                     "required":["k","v"]}]})",
       {R"({"k":"x","v":1})", R"({"k":"y","v":"s"})"},
       {R"({"k":"x","v":"s"})", R"({"k":"y","v":1})"}},
      {R"({"allOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},
                    {"type":"object","properties":{"b":{"type":"string"}}}]})",
       {R"({"a":1})", R"({"a":1,"b":"x"})"},
       {R"({"b":"x"})"}},
      {R"({"allOf":[{"$ref":"#/$defs/p"}],"description":"x","$defs":{"p":{"type":"integer"}}})",
       {"1"},
       {"true"}},
      {R"({"allOf":[{"minimum":1,"maximum":10},{"minimum":5,"type":"integer"}]})",
       {"5", "10"},
       {"4", "11", "1"}},
      {R"({"allOf":[{"type":"object","properties":{"a":{"minimum":3}}},
                    {"properties":{"a":{"type":"integer"}}}]})",
       {R"({"a":3})"},
       {R"({"a":2})", R"({"a":"x"})"}},
      {R"({"allOf":[{"type":"object","properties":{"a":{}},"additionalProperties":false},
                    {"properties":{"b":{}}}]})",
       {"{}", R"({"a":1})"},
       {R"({"b":1})"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"}},
           "anyOf":[{"required":["a"]},{"properties":{"b":{"type":"null"}},"required":["b"]}]})",
       {R"({"a":1})", R"({"b":null})", R"({"a":1,"b":null})"},
       {"{}"}},
      {R"({"anyOf":[false,{"type":"null"}]})", {"null"}, {"1"}},
      {R"({"allOf":[{"type":["integer","string"]},{"type":["number","null"]}]})",
       {"1"},
       {"1.5", "null", R"("a")"}},
  });
}

/// A union of many objects is one reading as long as they begin alike.
TEST(JsonSchema, AlternativesAreReadTogether) {
  std::string schema = R"({"anyOf":[)";
  for (int i = 0; i < 200; ++i) {
    if (i > 0) schema += ',';
    schema += R"({"type":"object","properties":{"kind":{"const":"k)";
    schema += std::to_string(i);
    schema += R"("},"value":{"type":"array","minItems":)";
    schema += std::to_string(i % 3);
    schema += R"(}},"required":["kind","value"]})";
  }
  const Automaton automaton = compile_json_schema(schema + "]}");
  for (int i = 0; i < 200; ++i) {
    const std::string begin = R"({"kind":"k)" + std::to_string(i) + R"(","value":)";
    EXPECT_TRUE(matches(automaton, begin + "[1,2]}"));
    EXPECT_EQ(matches(automaton, begin + "[1]}"), i % 3 < 2);
    EXPECT_EQ(matches(automaton, begin + "[]}"), i % 3 < 1);
  }
  EXPECT_FALSE(matches(automaton, R"({"kind":"k200","value":[1,2]})"));
  Reader reader(automaton);
  Reader::Place place = reader.enter(automaton.start(), kBottom);
  for (const char c : std::string_view(R"({"kind":"k1)")) {
    place = reader.step(place, static_cast<uint8_t>(c));
    EXPECT_EQ(place.end - place.begin, 1u) << c;
  }
}

TEST(JsonSchema, RecursionIsBoundedAndCanAlwaysBeFinished) {
  const Automaton automaton = compile_json_object();
  const auto nested = [](int n) {
    std::string text;
    for (int i = 0; i < n; ++i) text += i == 0 ? "{\"a\":" : "[";
    text += "1";
    for (int i = n; i-- > 0;) text += i == 0 ? "}" : "]";
    return text;
  };
  EXPECT_TRUE(matches(automaton, nested(100)));
  EXPECT_FALSE(matches(automaton, nested(kMaxDepth + 3)));
  // Two levels each time: where there is room for one only, the first is not begun either.
  const Automaton pairs = compile_json_schema(
      R"({"type":"array","items":{"type":"object","properties":{"a":{"$ref":"#"}},
          "required":["a"]}})");
  std::string text;
  Reader reader(pairs);
  Reader::Place place = reader.enter(pairs.start(), kBottom);
  const auto read = [&](std::string_view piece) {
    for (const char c : piece) place = reader.step(place, static_cast<uint8_t>(c));
    return !place.dead();
  };
  int n = 0;
  for (; n < 1000; ++n) {
    const Position before = reader.save(place);
    if (read("[{\"a\":")) continue;
    place = reader.load(before);
    break;
  }
  EXPECT_GT(n, 50);
  EXPECT_LT(n, kMaxDepth);
  ASSERT_TRUE(read("[]"));
  for (; n > 0; --n) ASSERT_TRUE(read("}]"));
  EXPECT_TRUE(place.may_end);
}

TEST(JsonSchema, RefusesWhatItDoesNotKnow) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "the JSON schema is not valid JSON at byte 1"},
      {"{\"type\":}", "is not valid JSON at byte 9"},
      {"[]", R"(at "#": a schema must be an object or a boolean, got array)"},
      {"false", "allows no text"},
      {R"({"type":"strin"})", "type must be one or a list of"},
      {R"({"properties":{"a":{"not":{}}}})",
       R"(at "#/properties/a": the keyword "not" is not supported)"},
      {R"({"if":{}})", R"(the keyword "if")"},
      {R"({"patternProperties":{}})", R"(the keyword "patternProperties")"},
      {R"({"uniqueItems":true})", R"(the keyword "uniqueItems")"},
      {R"({"multipleOf":2})", R"(the keyword "multipleOf")"},
      {R"({"minProperties":2})", R"(the keyword "minProperties")"},
      {R"({"type":"string","format":"color"})", R"(format is "color", supported are date, time)"},
      {R"({"type":"string","pattern":"a","maxLength":3})", "pattern together with minLength"},
      {R"({"type":"string","format":"date","minLength":3})", "format together with"},
      {R"-({"type":"string","pattern":"(?=a)"})-",
       R"-(pattern "(?=a)": regular expression, byte 2)-"},
      {R"({"type":"string","pattern":1})", "pattern must be a string"},
      {R"({"type":"string","minLength":-1})", "minLength must be a non-negative integer"},
      {R"({"type":"string","minLength":1.5})", "minLength must be a non-negative integer"},
      {R"({"type":"string","minLength":5000})", "minLength is 5000, at most 2048 is supported"},
      {R"({"type":"string","minLength":3,"maxLength":2})", "allows no text"},
      {R"({"type":"integer","minimum":3,"maximum":2})", "allows no text"},
      {R"({"type":"number","minimum":0.5})", "must be an integer"},
      {R"({"type":"integer","minimum":1e18})", "beyond 1e17"},
      {R"({"type":"integer","minimum":"a"})", "minimum must be a number"},
      {R"({"properties":[]})", "properties must be an object"},
      {R"({"required":"a"})", "required must be a list of names"},
      {R"({"required":[1]})", "required must be a list of names"},
      {R"({"items":[{}]})", "a list of them is called prefixItems"},
      {R"({"prefixItems":{}})", "prefixItems must be a list"},
      {R"({"minItems":3,"maxItems":2})", "allows no text"},
      {R"({"enum":[]})", "enum must be a list of values"},
      {R"({"enum":["abc"],"minLength":2})", "minLength beside enum or const"},
      {R"({"type":"integer","const":"a"})", "allows no text"},
      {R"({"$ref":"#/$defs/a"})", R"($ref is "#/$defs/a", which is not in the schema)"},
      {R"({"$ref":"other.json"})", "expected a place in the same schema"},
      {R"({"$ref":"#a"})", "expected a JSON pointer"},
      {R"({"$ref":1})", "$ref must be a string"},
      {R"({"$ref":"#"})", "$ref leads to itself"},
      {R"({"anyOf":[{"type":"null"},{"$ref":"#"}]})", "$ref leads to itself"},
      {R"({"anyOf":[]})", "anyOf must be a list of schemas"},
      {R"({"allOf":[{"pattern":"a"},{"pattern":"b"}]})", "pattern differs between schemas"},
      {R"({"allOf":[{"items":{}},{"prefixItems":[{}]}]})", "in different schemas"},
      {R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})", "allows no text"},
      {R"({"type":"array","items":{"$ref":"#"},"minItems":1})", "allows no text"},
  };
  for (const auto& [schema, part] : cases) {
    SCOPED_TRACE(schema);
    test::expect_error(ErrorCode::kInvalidArgument, part,
                       [&, s = schema] { compile_json_schema(s); });
  }
}

TEST(JsonSchema, RefusesWhatIsTooLarge) {
  const auto refused = [](const std::string& schema, const char* part) {
    test::expect_error(ErrorCode::kInvalidArgument, part, [&] { compile_json_schema(schema); });
  };
  refused(std::string(300'000, ' '), "has 300000 bytes, at most 262144");
  refused(std::string(70, '[') + std::string(70, ']'), "nested more than 64 deep");
  refused(std::string("{}\0", 3), "a zero byte");
  // Every definition is two of the one before.
  std::string bomb = R"({"$ref":"#/$defs/d40","$defs":{"d0":{"type":"null"})";
  for (int i = 1; i <= 40; ++i) {
    const std::string last = R"({"$ref":"#/$defs/d)" + std::to_string(i - 1) + "\"}";
    bomb += fmt::format(R"(,"d{}":{{"anyOf":[{},{}]}})", i, last, last);
  }
  refused(bomb + "}}", "more than 1024 alternatives");
  std::string chain = R"({"$ref":"#/$defs/d100","$defs":{"d0":{"type":"null"})";
  for (int i = 1; i <= 100; ++i)
    chain += ",\"d" + std::to_string(i) + R"(":{"$ref":"#/$defs/d)" + std::to_string(i - 1) + "\"}";
  refused(chain + "}}", "through too many");
  std::string wide = R"({"type":"object","properties":{)";
  for (int i = 0; i < 100; ++i)
    wide += (i == 0 ? "\"" : ",\"") + std::to_string(i) + R"(":{"type":"string","minLength":)" +
            std::to_string(1000 + i) + ",\"maxLength\":" + std::to_string(2000 + i % 3) + '}';
  refused(wide + "}}", "too large");
}

TEST(ToolCalls, AreObjectsWithNameAndArguments) {
  ToolCalls calls{.tools = {{"get_weather", R"({"type":"object","properties":{"city":
                             {"type":"string"}},"required":["city"]})"},
                            {"now", ""}},
                  .arguments_key = "arguments",
                  .begin = "<tool_call>\n",
                  .end = "\n</tool_call>",
                  .separator = "\n",
                  .max_calls = 2};
  const std::string weather =
      "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Bonn\"}}\n</tool_call>";
  const std::string now = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
  const Automaton automaton = compile_tool_calls(calls);
  EXPECT_TRUE(matches(automaton, weather));
  EXPECT_TRUE(matches(automaton, now));
  EXPECT_TRUE(matches(automaton, weather + '\n' + now));
  EXPECT_FALSE(matches(automaton, weather + now));
  EXPECT_FALSE(matches(automaton, now + '\n' + now + '\n' + now));
  EXPECT_FALSE(matches(
      automaton, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>"));
  calls = {.tools = {{"f", "true"}}, .arguments_key = "parameters"};
  EXPECT_TRUE(matches(compile_tool_calls(calls), R"({"name":"f","parameters":1})"));
  calls.tools[0].parameters = R"({"not":{}})";
  test::expect_error(ErrorCode::kInvalidArgument,
                     R"(the parameters of tool "f" at "#": the keyword "not")",
                     [&] { compile_tool_calls(calls); });
  calls.tools.clear();
  test::expect_error(ErrorCode::kInvalidArgument, "there are 0 tools",
                     [&] { compile_tool_calls(calls); });
  calls = {.tools = {{"f", ""}}, .max_calls = 0};
  test::expect_error(ErrorCode::kInvalidArgument, "at most 0 calls",
                     [&] { compile_tool_calls(calls); });
  calls = {.tools = {{"f", ""}}, .begin = "\xFF"};
  test::expect_error(ErrorCode::kInvalidArgument, "not UTF-8", [&] { compile_tool_calls(calls); });
}

}  // namespace
}  // namespace deltacome::grammar
