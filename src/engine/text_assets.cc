// SPDX-License-Identifier: Apache-2.0
#include "engine/text_assets.h"

#include "core/check.h"
#include "io/files.h"

namespace deltacome {

const Tokenizer& TextAssets::need_tokenizer() const {
  if (tokenizer == nullptr)
    fail(ErrorCode::kUnsupported, "{} has no tokenizer.json; give token ids instead of text", name);
  return *tokenizer;
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
    assets->tokenizer = tokenizers_[hash].lock();
    if (assets->tokenizer == nullptr) {
      assets->tokenizer = std::make_shared<const Tokenizer>(Tokenizer::parse(json, path.string()));
      tokenizers_[hash] = assets->tokenizer;
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
