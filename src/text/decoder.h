// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/regex.h"

namespace deltacome {

struct ReplaceDecoder {
  Pattern pattern;
  std::string content;
};
/// Runs of "<0xNN>" become the text of these bytes, or a U+FFFD for each if they are not UTF-8.
struct ByteFallbackDecoder {};
/// All tokens become one.
struct FuseDecoder {};
/// Takes up to `start` times `content` off the front of each token and `stop` off its end.
struct StripDecoder {
  std::string content;  // one character
  size_t start;
  size_t stop;
};
/// Undoes MetaspaceStep; those of the first token are dropped if one was prepended.
struct MetaspaceDecoder {
  std::string replacement;
  bool drops_first;
};
/// Undoes ByteLevelStep; all tokens become one.
struct ByteLevelDecoder {};
/// A space between tokens: what `tokenizers` does without a decoder.
struct JoinDecoder {};

using DecoderStep = std::variant<ReplaceDecoder, ByteFallbackDecoder, FuseDecoder, StripDecoder,
                                 MetaspaceDecoder, ByteLevelDecoder, JoinDecoder>;

/// The byte of a token "<0xNN>"; nothing for other tokens.
std::optional<char> fallback_byte(std::string_view token) noexcept;
/// The bytes of a token in the alphabet of ByteLevelStep. One with a character outside of it stands
/// for itself.
std::string byte_level_bytes(std::string_view token);

/// Receives tokens in pieces of whole characters: append() as often as it takes, then end_token().
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void append(std::string_view piece) = 0;
  virtual void end_token() = 0;
  virtual void finish() = 0;  // after the last token
};

/// Decodes one sequence of tokens step by step: text comes out as soon as no later token can change
/// it, so the pieces put together are the text of the whole. Work is linear in the tokens.
/// One thread; `steps` must outlive it.
class DecodePipeline {
 public:
  explicit DecodePipeline(const std::vector<DecoderStep>& steps);
  DecodePipeline(DecodePipeline&&) noexcept;
  DecodePipeline& operator=(DecodePipeline&&) noexcept;
  ~DecodePipeline();

  void push(std::string_view token);
  void finish();
  /// Text that has become final since the last call.
  std::string take();

 private:
  struct Output;
  std::unique_ptr<Output> output_;
  std::vector<std::unique_ptr<TokenSink>> stages_;  // last to first: each feeds the one before it
};

}  // namespace deltacome
