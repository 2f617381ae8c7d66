// SPDX-License-Identifier: Apache-2.0
// Random texts along the masks are valid: by a JSON parser, and by a validator that was written
// from the specification of JSON Schema, not from the compiler of schemas.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "grammar/test_support.h"

namespace deltacome::grammar {
namespace {

using nlohmann::json;
using testing::adversarial_tokens;
using testing::ids_of;

size_t code_points(const std::string& text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
}

bool has_type(const json& value, const std::string& type) {
  if (type == "integer") {
    return value.is_number_integer() ||
           (value.is_number() && value.get<double>() == std::floor(value.get<double>()));
  }
  return (type == "object" && value.is_object()) || (type == "array" && value.is_array()) ||
         (type == "string" && value.is_string()) || (type == "number" && value.is_number()) ||
         (type == "boolean" && value.is_boolean()) || (type == "null" && value.is_null());
}

bool valid(const json& schema, const json& value, const json& root);

bool valid_string(const json& schema, const std::string& text) {
  if (schema.contains("minLength") && code_points(text) < schema["minLength"]) return false;
  if (schema.contains("maxLength") && code_points(text) > schema["maxLength"]) return false;
  if (schema.contains("pattern") &&
      !std::regex_search(text, std::regex(schema["pattern"].get<std::string>())))
    return false;
  if (schema.value("format", "") == "date") {
    static const std::regex kDate("(\\d{4})-(\\d\\d)-(\\d\\d)");
    std::smatch m;
    if (!std::regex_match(text, m, kDate)) return false;
    const int year = std::stoi(m[1]), month = std::stoi(m[2]), day = std::stoi(m[3]);
    const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    const int days[] = {31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (month < 1 || month > 12 || day < 1 || day > days[month - 1]) return false;
  }
  return true;
}

bool valid_object(const json& schema, const json& value, const json& root) {
  const json properties = schema.value("properties", json::object());
  for (const json& name : schema.value("required", json::array()))
    if (!value.contains(name.get<std::string>())) return false;
  for (const auto& [name, member] : value.items()) {
    if (properties.contains(name)) {
      if (!valid(properties[name], member, root)) return false;
    } else if (schema.contains("additionalProperties") &&
               !valid(schema["additionalProperties"], member, root)) {
      return false;
    }
  }
  return true;
}

bool valid_array(const json& schema, const json& value, const json& root) {
  if (schema.contains("minItems") && value.size() < schema["minItems"]) return false;
  if (schema.contains("maxItems") && value.size() > schema["maxItems"]) return false;
  const json first = schema.value("prefixItems", json::array());
  for (size_t i = 0; i < value.size(); ++i) {
    if (i < first.size() ? !valid(first[i], value[i], root)
                         : schema.contains("items") && !valid(schema["items"], value[i], root))
      return false;
  }
  return true;
}

bool valid(const json& schema, const json& value, const json& root) {
  if (schema.is_boolean()) return schema.get<bool>();
  const auto holds = [&](const json& s) { return valid(s, value, root); };
  if (schema.contains("$ref")) {
    const std::string pointer = schema["$ref"].get<std::string>().substr(1);
    if (!holds(root.at(json::json_pointer(pointer)))) return false;
  }
  if (schema.contains("allOf") && !std::ranges::all_of(schema["allOf"], holds)) return false;
  if (schema.contains("anyOf") && std::ranges::none_of(schema["anyOf"], holds)) return false;
  if (schema.contains("const") && value != schema["const"]) return false;
  if (schema.contains("enum") && std::ranges::count(schema["enum"], value) == 0) return false;
  if (schema.contains("type")) {
    const json& type = schema["type"];
    if (type.is_array()
            ? std::ranges::none_of(
                  type, [&](const json& t) { return has_type(value, t.get<std::string>()); })
            : !has_type(value, type.get<std::string>()))
      return false;
  }
  if (value.is_number()) {
    const auto number = value.get<double>();
    const auto bound = [&](const char* key, double otherwise) {
      return schema.contains(key) ? schema[key].get<double>() : otherwise;
    };
    if (number < bound("minimum", -1e300) || number > bound("maximum", 1e300) ||
        number <= bound("exclusiveMinimum", -1e300) || number >= bound("exclusiveMaximum", 1e300))
      return false;
  }
  if (value.is_string()) return valid_string(schema, value.get<std::string>());
  if (value.is_object()) return valid_object(schema, value, root);
  if (value.is_array()) return valid_array(schema, value, root);
  return true;
}

/// A text along the masks: any token for a while, then those that close things.
std::string random_text(Matcher matcher, const TokenSet& tokens, uint32_t seed) {
  std::mt19937 rng(seed);
  std::string text;
  for (int i = 0; i < 5000; ++i) {
    if (matcher.may_end() && (matcher.must_end() || rng() % 4 == 0)) return text;
    const std::vector<TokenId> ids = ids_of(matcher.allowed());
    EXPECT_FALSE(ids.empty()) << text;
    if (ids.empty()) return text;
    TokenId id = ids[rng() % ids.size()];
    if (i > 40) {
      std::vector<TokenId> closing;
      for (const char c : {'}', ']', '"'})
        if (has_bit(matcher.allowed(), c)) closing.push_back(c);
      if (!closing.empty()) id = closing[rng() % closing.size()];
    }
    EXPECT_TRUE(matcher.accept(id)) << text;
    text += *tokens.bytes_of(id);
  }
  ADD_FAILURE() << "does not end: " << text.substr(0, 400);
  return text;
}

const char* const kSchemas[] = {
    "{}",
    R"({"type":"object"})",
    R"({"type":"string"})",
    R"({"type":"string","maxLength":7,"minLength":3})",
    R"({"type":"string","pattern":"^[a-f\"]{2,5}(é)?x*$"})",
    R"({"type":"string","pattern":"[{}a-z]\\d?"})",
    R"({"type":"string","format":"date"})",
    R"({"type":"number"})",
    R"({"type":"number","minimum":-3,"exclusiveMaximum":17})",
    R"({"type":"integer","minimum":-31,"maximum":1004})",
    R"({"type":["integer","null","boolean"]})",
    R"({"enum":["a\"b","é",1.5,null,[1,{"x":"y"}]]})",
    R"({"type":"object","properties":{"name":{"type":"string","minLength":1},"ab":{"type":"integer"},
        "é":{"type":"array","items":{"type":"number"}}},"required":["name"]})",
    R"({"type":"object","properties":{"a":{"type":"integer"},"ab":{"type":"null"},
        "x\"":{"type":"integer"}},"additionalProperties":{"type":"string","maxLength":3}})",
    R"({"type":"object","additionalProperties":{"anyOf":[{"type":"null"},{"type":"array",
        "items":{"type":"boolean"},"minItems":2,"maxItems":7}]}})",
    R"({"type":"array","prefixItems":[{"type":"integer","minimum":5},{"const":"x"}],
        "items":{"type":"boolean"},"minItems":3})",
    R"({"$ref":"#/$defs/t","$defs":{"t":{"type":"object","properties":{"v":{"type":"integer"},
        "c":{"type":"array","items":{"$ref":"#/$defs/t"}}},"required":["v","c"]}}})",
    R"({"anyOf":[{"type":"object","properties":{"k":{"const":"x"},"v":{"type":"integer"}},
        "required":["k","v"]},{"type":"object","properties":{"k":{"type":"string"},
        "v":{"type":"string"}},"required":["k"]},{"type":"integer"}]})",
    R"({"allOf":[{"type":"object","properties":{"a":{"minimum":3}},"required":["a"]},
        {"properties":{"a":{"type":"integer"},"b":{"type":"boolean"}}}],"properties":{"c":{}}})",
    R"({"allOf":[{"type":"object","properties":{"a":{}},"additionalProperties":{"type":"integer"}},
        {"properties":{"b":{"maximum":5}},"additionalProperties":{"type":"integer"}}]})",
};

TEST(RandomWalk, GivesValidTexts) {
  for (const bool drops_first_space : {false, true}) {
    const auto tokens = std::make_shared<const TokenSet>(adversarial_tokens(7), drops_first_space);
    for (const char* schema : kSchemas) {
      const json parsed = json::parse(schema);
      const auto masks = std::make_shared<TokenMasks>(
          std::make_shared<const Automaton>(compile_json_schema(schema)), tokens);
      for (uint32_t seed = 0; seed < 60; ++seed) {
        std::string text = random_text(Matcher(masks), *tokens, seed);
        if (drops_first_space && text.starts_with(' ')) text.erase(0, 1);
        const json value = json::parse(text, nullptr, false);
        ASSERT_FALSE(value.is_discarded()) << schema << "\n" << text;
        ASSERT_TRUE(valid(parsed, value, parsed)) << schema << "\n" << text;
      }
    }
  }
}

TEST(RandomWalk, TheValidatorRefuses) {
  const json schema = json::parse(kSchemas[12]);
  EXPECT_TRUE(valid(schema, json::parse(R"({"name":"x","ab":1})"), schema));
  EXPECT_FALSE(valid(schema, json::parse(R"({"name":"","ab":1})"), schema));
  EXPECT_FALSE(valid(schema, json::parse(R"({"ab":1})"), schema));
  EXPECT_FALSE(valid(schema, json::parse(R"({"name":"x","ab":1.5})"), schema));
}

TEST(RandomWalk, GivesTextsThatMatchTheExpression) {
  const auto tokens = std::make_shared<const TokenSet>(adversarial_tokens(8), false);
  for (const char* pattern : {"(a|b)*\"", "[a-z ]{1,20}(\\d+,)*", "-?(0|[1-9]\\d*)(\\.\\d+)?",
                              "\\{\"name\": \"[^\"]*\"\\}", "(\\w+@\\w+)?"}) {
    const auto masks = std::make_shared<TokenMasks>(
        std::make_shared<const Automaton>(compile_regex(pattern)), tokens);
    const std::regex regex(pattern);
    for (uint32_t seed = 0; seed < 60; ++seed) {
      const std::string text = random_text(Matcher(masks), *tokens, seed);
      EXPECT_TRUE(std::regex_match(text, regex)) << pattern << "\n" << text;
    }
  }
}

}  // namespace
}  // namespace deltacome::grammar
