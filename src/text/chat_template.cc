// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/check.h"
#include "core/utf8.h"
#include "text/jinja_eval.h"
#include "text/jinja_parser.h"
#include "text/jinja_print.h"

namespace deltacome {

struct ChatTemplate::Impl {
  std::vector<jinja::NodePtr> body;
  std::map<std::string, std::string> variables;
};

namespace {

using nlohmann::json;

std::optional<std::string> read_file(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) fail(ErrorCode::kIo, "{}: cannot read the file", path.string());
  return std::move(text).str();
}

/// A special token is a string or an object with "content".
std::optional<std::string> token_text(const json& token) {
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.contains("content") && token["content"].is_string()) {
    return token["content"].get<std::string>();
  }
  return std::nullopt;
}

std::map<std::string, std::string> special_tokens(const json& config) {
  std::map<std::string, std::string> tokens;
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token")) continue;
    if (auto text = token_text(value)) tokens[key] = *std::move(text);
  }
  const auto extra = config.find("extra_special_tokens");
  if (extra != config.end() && extra->is_object()) {
    for (const auto& [key, value] : extra->items()) {
      if (auto text = token_text(value)) tokens[key] = *std::move(text);
    }
  }
  return tokens;
}

/// The default one of what a tokenizer_config.json gives as chat_template.
std::optional<std::string> select_template(const json& config, const std::string& name) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) {
    fail(ErrorCode::kCorrupt, "{}: chat_template is neither a string nor a list", name);
  }
  for (const json& entry : *found) {
    if (entry.is_object() && entry.value("name", json()) == "default" &&
        entry.contains("template") && entry["template"].is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  fail(ErrorCode::kUnsupported, "{}: chat_template has no entry named \"default\"", name);
}

/// tokenizer_config.json; an empty object if there is none.
json tokenizer_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "tokenizer_config.json";
  const auto text = read_file(path);
  if (!text) return json::object();
  json config = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) fail(ErrorCode::kCorrupt, "{}: not a JSON object", path.string());
  return config;
}

std::optional<std::string> source_of(const std::filesystem::path& directory, const json& config) {
  if (auto source = read_file(directory / "chat_template.jinja")) return source;
  return select_template(config, (directory / "tokenizer_config.json").string());
}

}  // namespace

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

ChatTemplate ChatTemplate::parse(std::string_view source,
                                 std::map<std::string, std::string> variables) {
  if (!is_valid_utf8(source)) fail(ErrorCode::kCorrupt, "chat template: the text is not UTF-8");
  auto impl = std::make_unique<Impl>();
  impl->body = jinja::parse_template(source);
  impl->variables = std::move(variables);
  return ChatTemplate(std::move(impl));
}

std::optional<ChatTemplate> ChatTemplate::load(const std::filesystem::path& directory) {
  const json config = tokenizer_config(directory);
  const std::optional<std::string> source = source_of(directory, config);
  if (!source) return std::nullopt;
  return parse(*source, special_tokens(config));
}

std::optional<std::string> chat_template_source(const std::filesystem::path& directory) {
  return source_of(directory, tokenizer_config(directory));
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                 bool add_generation_prompt) const {
  json context;
  context["messages"] = json::array();
  for (const ChatMessage& message : messages) {
    context["messages"].push_back({{"role", message.role}, {"content", message.content}});
  }
  context["add_generation_prompt"] = add_generation_prompt;
  context["tools"] = nullptr;  // as apply_chat_template() passes them
  context["documents"] = nullptr;
  try {
    return render_json(context.dump());
  } catch (const json::type_error&) {
    fail(ErrorCode::kInvalidArgument, "chat template: a message is not UTF-8");
  }
}

std::string ChatTemplate::render_json(std::string_view context_json) const {
  jinja::Budget budget{jinja::Limits{}};
  jinja::Dict variables;
  try {
    for (const auto& [name, value] : impl_->variables) {
      variables.set(jinja::Value(name), jinja::Value(value), budget);
    }
    const jinja::Value context =
        jinja::from_json(context_json, "the context of the chat template", budget);
    if (!context.is(jinja::Type::kDict)) {
      fail(ErrorCode::kInvalidArgument, "the context of the chat template is not a JSON object");
    }
    for (const auto& [name, value] : context.as_dict().entries) {
      variables.set(name, value, budget);
    }
  } catch (const jinja::Fault& f) {
    fail(f.code, "the context of the chat template: {}", f.message);
  }
  return jinja::render_template(impl_->body, variables, budget);
}

}  // namespace deltacome
