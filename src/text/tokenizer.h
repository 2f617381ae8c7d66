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
  /// Reads tokenizer.json. Throws kNotFound, kCorrupt, and kUnsupported for a model, normalizer,
  /// pre-tokenizer, post-processor or decoder that is not known (named, with the list of those that
  /// are). Its `truncation` and `padding` are ignored: they are settings of a training run.
  static Tokenizer load(const std::filesystem::path& directory);
  /// The same from the JSON text of tokenizer.json; `name` stands for the file in messages.
  static Tokenizer parse(std::string_view tokenizer_json, const std::string& name);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Token ids of `text`. Special tokens that occur in the text are recognized;
  /// `add_special_tokens` applies the post-processor (BOS and the like), as in `tokenizers`.
  /// Invalid UTF-8 is read as Python's bytes.decode("utf-8", errors="replace") reads it.
  /// Throws kInvalidArgument if a pattern of the file backtracks too much on the text.
  std::vector<TokenId> encode(std::string_view text, bool add_special_tokens) const;
  /// Text of `ids`; byte sequences that are not UTF-8 come out as U+FFFD, as in `tokenizers`. Ids
  /// that no token has are skipped. Every special token is left out on request; `tokenizers` 0.23
  /// keeps one that is `normalized` and changes by it.
  std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const;

  int64_t vocab_size() const noexcept;  // largest id + 1
  std::optional<TokenId> id_of(std::string_view token) const;
  std::string token_of(TokenId id) const;  // as in the vocabulary; "" if unknown
  bool is_special(TokenId id) const noexcept;

  /// What each token adds to a text, by id, not replaced where it is no UTF-8 by itself; absent for
  /// special tokens and ids without one; ids from 2^22 on are left out. Not of the first token if
  /// drops_first_space(): a text loses the space that it begins with. Throw kUnsupported for
  /// decoders that do not work token by token.
  std::vector<std::optional<std::string>> token_bytes() const;
  bool drops_first_space() const;

  struct Impl;

 private:
  explicit Tokenizer(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
  friend class StreamDecoder;
};

/// Decodes a growing sequence: each push returns the text that is final, so that concatenated
/// pieces equal decode() of the whole. Work is linear in the tokens. Held back are the bytes of an
/// unfinished UTF-8 character and, with byte fallback, a run of byte tokens until it ends, as one
/// bad byte turns the whole run into U+FFFD. One thread.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens);
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();

  std::string push(TokenId id);
  std::string finish();  // what is still held back; the next push begins a new sequence

 private:
  struct State;
  std::shared_ptr<const Tokenizer::Impl> impl_;
  bool skip_special_tokens_;
  std::unique_ptr<State> state_;
};

}  // namespace deltacome
