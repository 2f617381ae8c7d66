// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <algorithm>
#include <fstream>
#include <utility>

#include "core/check.h"
#include "core/utf8.h"
#include "text/token_bytes.h"
#include "text/tokenizer_json.h"

namespace deltacome {

struct Tokenizer::Impl {
  TokenizerParts parts;
  int64_t vocab_size = 0;

  explicit Impl(TokenizerParts read) : parts(std::move(read)) {
    for (const auto& [token, id] : parts.bpe.vocabulary().entries()) {
      vocab_size = std::max(vocab_size, int64_t{id} + 1);
    }
    for (const AddedToken& token : parts.added_tokens.tokens()) {
      vocab_size = std::max(vocab_size, int64_t{token.id} + 1);
    }
  }

  /// What decode() starts from; nullptr for an id without a token and, if asked for, for a special
  /// token.
  const std::string* text_of(TokenId id, bool skip_special_tokens) const noexcept {
    if (const AddedToken* added = parts.added_tokens.find(id)) {
      return added->special && skip_special_tokens ? nullptr : &added->decoded;
    }
    return parts.bpe.vocabulary().token_of(id);
  }

  void encode_plain(std::string_view text, bool at_start, Bpe::Scratch& scratch,
                    std::vector<TokenId>& out) const {
    const PieceText pieces = parts.pre_tokenizer.apply(std::string(text), at_start);
    const std::string_view all = pieces.text;
    for (const Piece& piece : pieces.pieces) {
      parts.bpe.encode(all.substr(piece.begin, piece.end - piece.begin), scratch, out);
    }
  }

  std::vector<TokenId> encode(std::string_view text) const {
    std::vector<TokenId> out;
    Bpe::Scratch scratch;
    for (const AddedTokens::Segment& raw : parts.added_tokens.split_raw(text)) {
      if (raw.token != nullptr) {
        out.push_back(raw.token->id);
        continue;
      }
      const Normalizer::Result normal = parts.normalizer.apply(raw.text);
      for (const auto& segment : parts.added_tokens.split_normalized(normal.text)) {
        if (segment.token != nullptr) {
          out.push_back(segment.token->id);
        } else {
          encode_plain(segment.text, raw.at_start && normal.keeps_start && segment.at_start,
                       scratch, out);
        }
      }
    }
    return out;
  }
};

Tokenizer Tokenizer::load(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "tokenizer.json";
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) fail(ErrorCode::kNotFound, "{}: cannot be opened", path.string());
  const auto n_bytes = static_cast<int64_t>(file.tellg());
  if (n_bytes < 0) fail(ErrorCode::kIo, "{}: cannot be read", path.string());
  if (static_cast<uint64_t>(n_bytes) > kMaxTokenizerJsonBytes) {
    fail(ErrorCode::kUnsupported, "{}: {} bytes, at most {} are supported", path.string(), n_bytes,
         kMaxTokenizerJsonBytes);
  }
  std::string text(static_cast<size_t>(n_bytes), '\0');
  file.seekg(0);
  file.read(text.data(), static_cast<std::streamsize>(n_bytes));
  if (!file) fail(ErrorCode::kIo, "{}: cannot be read", path.string());
  return parse(text, path.string());
}

Tokenizer Tokenizer::parse(std::string_view tokenizer_json, const std::string& name) {
  return Tokenizer(std::make_shared<const Impl>(read_tokenizer_json(tokenizer_json, name)));
}

Tokenizer::Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::vector<TokenId> ids =
      is_valid_utf8(text) ? impl_->encode(text) : impl_->encode(replace_invalid_utf8(text));
  return add_special_tokens ? impl_->parts.post_processor.apply(std::move(ids)) : ids;
}

std::string Tokenizer::decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const {
  DecodePipeline pipeline(impl_->parts.decoder);
  for (const TokenId id : ids) {
    if (const std::string* token = impl_->text_of(id, skip_special_tokens)) pipeline.push(*token);
  }
  pipeline.finish();
  return pipeline.take();
}

int64_t Tokenizer::vocab_size() const noexcept {
  return impl_->vocab_size;
}

std::optional<TokenId> Tokenizer::id_of(std::string_view token) const {
  if (const AddedToken* added = impl_->parts.added_tokens.find(token)) return added->id;
  return impl_->parts.bpe.vocabulary().id_of(token);
}

std::string Tokenizer::token_of(TokenId id) const {
  if (const AddedToken* added = impl_->parts.added_tokens.find(id)) return added->content;
  const std::string* token = impl_->parts.bpe.vocabulary().token_of(id);
  return token == nullptr ? std::string() : *token;
}

bool Tokenizer::is_special(TokenId id) const noexcept {
  const AddedToken* added = impl_->parts.added_tokens.find(id);
  return added != nullptr && added->special;
}

std::vector<std::optional<std::string>> Tokenizer::token_bytes() const {
  const TokenBytes bytes(impl_->parts.decoder);
  std::vector<std::optional<std::string>> out;
  constexpr int64_t kMaxIds = 1 << 22;  // ids may be anything up to 2^31
  for (TokenId id = 0; id < std::min(vocab_size(), kMaxIds); ++id) {
    const std::string* token = impl_->text_of(id, true);
    out.push_back(token == nullptr ? std::nullopt : std::optional(bytes.of(*token)));
  }
  return out;
}

bool Tokenizer::drops_first_space() const {
  return TokenBytes(impl_->parts.decoder).drops_first_space();
}

struct StreamDecoder::State {
  DecodePipeline pipeline;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : impl_(tokenizer.impl_),
      skip_special_tokens_(skip_special_tokens),
      state_(new State{DecodePipeline(impl_->parts.decoder)}) {}
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::push(TokenId id) {
  const std::string* token = impl_->text_of(id, skip_special_tokens_);
  if (token == nullptr) return {};
  state_->pipeline.push(*token);
  return state_->pipeline.take();
}

std::string StreamDecoder::finish() {
  state_->pipeline.finish();
  std::string rest = state_->pipeline.take();
  state_->pipeline = DecodePipeline(impl_->parts.decoder);
  return rest;
}

}  // namespace deltacome
