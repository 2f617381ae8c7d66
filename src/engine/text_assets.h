// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "deltacome/error.h"
#include "grammar/token_trie.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace deltacome {

/// A tokenizer, and its tokens as constraints need them: made when they are first asked for, as
/// they take some 0.1 s and 10 MB at 128k tokens. Thread-safe.
class SharedTokenizer {
 public:
  explicit SharedTokenizer(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
  const Tokenizer& tokenizer() const noexcept { return tokenizer_; }
  std::shared_ptr<const grammar::TokenSet> token_set() const;  // throws kUnsupported

 private:
  Tokenizer tokenizer_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const grammar::TokenSet> token_set_;
};

/// What turns text into a variant's tokens and back. Immutable and thread-safe.
struct TextAssets {
  std::string name;                                         // for messages
  std::shared_ptr<const SharedTokenizer> shared_tokenizer;  // null if the directory has none
  std::optional<ChatTemplate> chat_template;
  std::optional<Error> chat_template_error;  // a template that cannot be used stops only chats

  const Tokenizer* tokenizer() const noexcept;                      // null if there is none
  const Tokenizer& need_tokenizer() const;                          // throws kUnsupported
  std::shared_ptr<const grammar::TokenSet> need_token_set() const;  // throws kUnsupported
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
  std::map<std::string, std::weak_ptr<const SharedTokenizer>> tokenizers_;  // by hash of the file
};

}  // namespace deltacome
