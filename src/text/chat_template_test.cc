// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>

#include "deltacome/error.h"

namespace deltacome {
namespace {

std::string render(const std::string& source, const std::string& context = "{}") {
  return ChatTemplate::parse(source).render_json(context);
}

void expect_error(const std::string& source, ErrorCode code, const std::string& part,
                  const std::string& context = "{}") {
  try {
    FAIL() << source.substr(0, 200) << " rendered as " << render(source, context).substr(0, 200);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

std::string repeat(const std::string& text, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += text;
  return out;
}

class Directory {
 public:
  Directory() : path_(std::filesystem::temp_directory_path() / "deltacome_chat_template_test") {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name) << text;
  }

 private:
  std::filesystem::path path_;
};

TEST(ChatTemplate, RendersMessagesAndTheGenerationPrompt) {
  const auto chatml = ChatTemplate::parse(
      "{% for m in messages %}<{{ m.role }}>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
      "{% if add_generation_prompt %}<assistant>{% endif %}",
      {{"eos_token", "</s>"}});
  const std::vector<ChatMessage> messages{{"system", "Be brief."}, {"user", "Grüße \"x\"\n"}};
  const std::string turns = "<system>Be brief.</s>\n<user>Grüße \"x\"\n</s>\n";
  EXPECT_EQ(chatml.render(messages, false), turns);
  EXPECT_EQ(chatml.render(messages, true), turns + "<assistant>");
}

TEST(ChatTemplate, TakesTheContextOverTheVariables) {
  const auto compiled = ChatTemplate::parse("{{ a }}{{ b }}", {{"a", "1"}, {"b", "2"}});
  EXPECT_EQ(compiled.render_json(R"({"b": 3.0})"), "13.0");
}

TEST(ChatTemplate, GivesTheTemplatesOwnWordsForRaiseException) {
  try {
    render("{{ raise_exception('roles must alternate') }}");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    EXPECT_STREQ(e.what(), "roles must alternate");
  }
}

TEST(ChatTemplate, NamesUnsupportedConstructsAndTheirLine) {
  expect_error("a\n{% include 'x' %}", ErrorCode::kUnsupported, "line 2: the construct 'include'");
  expect_error("{{ x|urlize }}", ErrorCode::kUnsupported, "'|urlize' is not supported; supported");
  expect_error("{{ x is escaped }}", ErrorCode::kUnsupported, "'is escaped'");
  expect_error("{{ 'a'.zfill(3) }}", ErrorCode::kUnsupported, "'.zfill()'");
  expect_error("{% for x in y recursive %}{% endfor %}", ErrorCode::kUnsupported, "recursive");
}

TEST(ChatTemplate, RefusesSyntaxErrorsAsCorrupt) {
  for (const char* source : {"{{", "{{ 1", "{% if x %}", "{% endif %}", "{{ 'a }}", "{# open",
                             "{% set true = 1 %}", "{% break %}", "{% raw %}x", "{{ (1] }}"}) {
    expect_error(source, ErrorCode::kCorrupt, "line 1");
  }
  expect_error("\xff", ErrorCode::kCorrupt, "UTF-8");
}

TEST(ChatTemplate, GivesTheLineOfFailuresWhileRendering) {
  expect_error("\n\n{{ a.b.c }}", ErrorCode::kInvalidArgument, "line 3");
  expect_error("\n{{ 1 + 'a' }}", ErrorCode::kInvalidArgument, "line 2: unsupported operand");
  expect_error("{{ l.append(1) }}", ErrorCode::kInvalidArgument, "unsafe", R"({"l": []})");
}

TEST(ChatTemplate, RefusesContextsThatAreNotObjects) {
  expect_error("x", ErrorCode::kInvalidArgument, "not valid JSON", "{");
  expect_error("x", ErrorCode::kInvalidArgument, "not a JSON object", "[]");
  expect_error("x", ErrorCode::kInvalidArgument, "deeper",
               "{\"a\": " + repeat("[", 100000) + repeat("]", 100000) + "}");
  expect_error("x", ErrorCode::kUnsupported, "64 bits", R"({"a": 9223372036854775808})");
}

TEST(ChatTemplate, BoundsTimeOutputAndMemory) {
  const std::string loops = "{% for a in range(100000) %}{% for b in range(100000) %}";
  const std::string ends = "{% endfor %}{% endfor %}";
  expect_error(loops + ends, ErrorCode::kInvalidArgument, "steps");
  expect_error(loops + repeat("x", 1000) + ends, ErrorCode::kInvalidArgument, "MiB");
  expect_error("{{ 'abc' * 1000000000000 }}", ErrorCode::kInvalidArgument, "MiB");
  expect_error("{{ [1] * 1000000000000 }}", ErrorCode::kInvalidArgument, "MiB");
  expect_error("{{ [1]|tojson(indent=1000000000) }}", ErrorCode::kInvalidArgument, "MiB");
  expect_error("{{ 'a\nb'|indent(1000000000) }}", ErrorCode::kInvalidArgument, "MiB");
  const std::string doubling =
      "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(150) %}"
      "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}";
  expect_error(doubling + "{{ n.x }}", ErrorCode::kInvalidArgument, "more than");
  expect_error(doubling + "{{ n.x == n.y }}", ErrorCode::kInvalidArgument, "more than");
  expect_error(
      "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(100) %}"
      "{% set n.x = n.x ~ n.x %}{% endfor %}",
      ErrorCode::kInvalidArgument, "MiB");
}

TEST(ChatTemplate, BoundsNesting) {
  expect_error("{{ " + repeat("(", 100000) + "1" + repeat(")", 100000) + " }}",
               ErrorCode::kUnsupported, "nested deeper");
  expect_error("{{ 1" + repeat(" + 1", 100000) + " }}", ErrorCode::kUnsupported, "nested deeper");
  expect_error("{{ x" + repeat(".a", 100000) + " }}", ErrorCode::kUnsupported, "nested deeper");
  expect_error("{{ " + repeat("not ", 100000) + "1 }}", ErrorCode::kUnsupported, "nested deeper");
  expect_error(repeat("{% if x %}", 100000), ErrorCode::kUnsupported, "nested deeper");
  expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ErrorCode::kInvalidArgument,
               "nested deeper");
  expect_error(
      "{% set n = namespace(x=1) %}{% for i in range(1000) %}{% set n.x = [n.x] %}"
      "{% endfor %}",
      ErrorCode::kInvalidArgument, "nested deeper");
}

TEST(ChatTemplate, FreesNamespacesInCyclesAndChains) {
  EXPECT_EQ(render("{% set n = namespace() %}{% set n.me = n %}{% set m = namespace(x=1) %}"
                   "{% for i in range(50000) %}{% set m.x = namespace(x=m.x) %}{% endfor %}ok"),
            "ok");
}

TEST(ChatTemplate, LoadsTheFileBeforeTheConfig) {
  const Directory directory;
  EXPECT_FALSE(ChatTemplate::load(directory.path()).has_value());
  directory.write("tokenizer_config.json",
                  R"({"chat_template": [{"name": "rag", "template": "no"},
                                        {"name": "default", "template": "{{ bos_token }}{{ x_token }}"}],
                      "bos_token": {"content": "<s>", "special": true}, "eos_token": null,
                      "extra_special_tokens": {"x_token": "<x>"}})");
  EXPECT_EQ(ChatTemplate::load(directory.path())->render({}, false), "<s><x>");
  directory.write("chat_template.jinja", "file {{ bos_token }}\n");
  EXPECT_EQ(ChatTemplate::load(directory.path())->render({}, false), "file <s>");
}

TEST(ChatTemplate, RefusesConfigsThatAreBroken) {
  const Directory directory;
  directory.write("tokenizer_config.json", "{");
  EXPECT_THROW(ChatTemplate::load(directory.path()), Error);
  directory.write("tokenizer_config.json", R"({"chat_template": 3})");
  EXPECT_THROW(ChatTemplate::load(directory.path()), Error);
  directory.write("tokenizer_config.json", R"({"chat_template": [{"name": "rag"}]})");
  EXPECT_THROW(ChatTemplate::load(directory.path()), Error);
}

}  // namespace
}  // namespace deltacome
