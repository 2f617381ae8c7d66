// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "deltacome/error.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace deltacome {

/// What turns text into a variant's tokens and back. Immutable and thread-safe.
struct TextAssets {
  std::string name;                            // for messages
  std::shared_ptr<const Tokenizer> tokenizer;  // null if the directory has none
  std::optional<ChatTemplate> chat_template;
  std::optional<Error> chat_template_error;  // a template that cannot be used stops only chats

  const Tokenizer& need_tokenizer() const;         // throws kUnsupported
  const ChatTemplate& need_chat_template() const;  // throws kUnsupported, or the template's error
};

/// Reads text assets; variants whose tokenizer.json has the same bytes share one tokenizer (that of
/// a vocabulary of 128k takes tens of megabytes). Thread-safe.
class TextCache {
 public:
  /// Throws what Tokenizer throws.
  std::shared_ptr<const TextAssets> load(const std::filesystem::path& directory,
                                         const std::string& name);

 private:
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const Tokenizer>> tokenizers_;  // by hash of the file
};

}  // namespace deltacome
