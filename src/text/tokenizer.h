// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace deltacome {

using TokenId = int32_t;

/// The tokenizer of a Hugging Face `tokenizer.json`: byte-level BPE (GPT-2, Llama-3, Qwen2) and
/// SentencePiece-style BPE with byte fallback (Llama-2, Mistral). Immutable and thread-safe.
class Tokenizer {
 public:
  /// Reads tokenizer.json, and tokenizer_config.json if present. Throws kNotFound, kCorrupt, and
  /// kUnsupported for a model, normalizer, pre-tokenizer, post-processor or decoder that is not
  /// known (named, with the list of those that are).
  static Tokenizer load(const std::filesystem::path& directory);
  /// The same from the JSON text of tokenizer.json; `name` stands for the file in messages.
  static Tokenizer parse(std::string_view tokenizer_json, const std::string& name);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Token ids of `text`. Special tokens that occur in the text are recognized;
  /// `add_special_tokens` applies the post-processor (BOS and the like), as in `tokenizers`.
  /// Invalid UTF-8 is read as Python's bytes.decode("utf-8", errors="replace") reads it.
  std::vector<TokenId> encode(std::string_view text, bool add_special_tokens) const;
  /// Text of `ids`; byte sequences that are not UTF-8 come out as U+FFFD, as in `tokenizers`.
  std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const;

  int64_t vocab_size() const noexcept;  // largest id + 1
  std::optional<TokenId> id_of(std::string_view token) const;
  std::string token_of(TokenId id) const;  // as in the vocabulary; "" if unknown
  bool is_special(TokenId id) const noexcept;

  struct Impl;

 private:
  explicit Tokenizer(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
  friend class StreamDecoder;
};

/// Decodes a growing sequence: each push returns the text that is final, so that concatenated
/// pieces equal decode() of the whole. Bytes of an unfinished UTF-8 character are held back. One
/// thread.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens);
  std::string push(TokenId id);
  std::string finish();  // what is still held back

 private:
  std::shared_ptr<const Tokenizer::Impl> impl_;
  bool skip_special_tokens_;
  std::vector<TokenId> ids_;
  size_t first_ = 0;    // ids before it cannot change any more text
  size_t emitted_ = 0;  // bytes of decode(ids_[first_..]) already returned
};

}  // namespace deltacome
