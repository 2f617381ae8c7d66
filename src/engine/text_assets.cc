// SPDX-License-Identifier: Apache-2.0
#include "engine/text_assets.h"

#include "core/check.h"
#include "io/files.h"

namespace deltacome {

std::shared_ptr<const grammar::TokenSet> SharedTokenizer::token_set() const {
  const std::lock_guard lock(mutex_);
  if (token_set_ == nullptr) {
    token_set_ = std::make_shared<const grammar::TokenSet>(tokenizer_.token_bytes(),
                                                           tokenizer_.drops_first_space());
  }
  return token_set_;
}

const Tokenizer* TextAssets::tokenizer() const noexcept {
  return shared_tokenizer == nullptr ? nullptr : &shared_tokenizer->tokenizer();
}

std::shared_ptr<const grammar::TokenSet> TextAssets::need_token_set() const {
  need_tokenizer();
  return shared_tokenizer->token_set();
}

const Tokenizer& TextAssets::need_tokenizer() const {
  if (shared_tokenizer == nullptr)
    fail(ErrorCode::kUnsupported, "{} has no tokenizer.json; give token ids instead of text", name);
  return shared_tokenizer->tokenizer();
}

const ChatTemplate& TextAssets::need_chat_template() const {
  if (chat_template_error) throw Error(*chat_template_error);
  if (!chat_template)
    fail(ErrorCode::kUnsupported, "{} has no chat template; give the prompt as text", name);
  return *chat_template;
}

std::shared_ptr<const TextAssets> TextCache::load(const std::filesystem::path& directory,
                                                  const std::string& name) {
  auto assets = std::make_shared<TextAssets>();
  assets->name = name;
  const std::filesystem::path path = directory / "tokenizer.json";
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) {
    const std::string json = read_text_file(path);
    const std::string hash = sha256_hex(std::as_bytes(std::span(json)));
    const std::lock_guard lock(mutex_);
    std::erase_if(tokenizers_, [](const auto& entry) { return entry.second.expired(); });
    assets->shared_tokenizer = tokenizers_[hash].lock();
    if (assets->shared_tokenizer == nullptr) {
      assets->shared_tokenizer =
          std::make_shared<const SharedTokenizer>(Tokenizer::parse(json, path.string()));
      tokenizers_[hash] = assets->shared_tokenizer;
    }
  }
  try {
    assets->chat_template = ChatTemplate::load(directory);
  } catch (const Error& error) {
    assets->chat_template_error = error;
  }
  return assets;
}

}  // namespace deltacome
