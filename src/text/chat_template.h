// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace deltacome {

struct ChatMessage {
  std::string role;
  std::string content;
};

/// The text of a directory's chat template: chat_template.jinja, else chat_template of
/// tokenizer_config.json (a string, or the one named "default" of a list); nullopt if it has none.
std::optional<std::string> chat_template_source(const std::filesystem::path& directory);

/// A Jinja chat template as models ship it. Immutable and thread-safe.
class ChatTemplate {
 public:
  /// Parses `source`. Throws kUnsupported naming the construct and its line, kCorrupt for a syntax
  /// error.
  static ChatTemplate parse(std::string_view source,
                            std::map<std::string, std::string> variables = {});
  /// chat_template_source(); bos_token, eos_token and the other special tokens of
  /// tokenizer_config.json become variables. nullopt if the directory has none.
  static std::optional<ChatTemplate> load(const std::filesystem::path& directory);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// The prompt. Throws kInvalidArgument with the template's own words for raise_exception(), and
  /// kUnsupported, kInvalidArgument for what fails while rendering, with the line.
  std::string render(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const;
  /// The same with the context given as a JSON object text ({"messages": [...], "tools": [...],
  /// ...}); it is merged over the variables.
  std::string render_json(std::string_view context_json) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace deltacome
