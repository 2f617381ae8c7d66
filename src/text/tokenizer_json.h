// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"

namespace deltacome {

/// Largest tokenizer.json that is read, in bytes; those of the largest vocabularies have 33 MiB.
inline constexpr size_t kMaxTokenizerJsonBytes = 128u << 20;

/// What a tokenizer.json says, checked.
struct TokenizerParts {
  Bpe bpe;
  Normalizer normalizer;
  AddedTokens added_tokens;
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  std::vector<DecoderStep> decoder;
};

/// Reads the untrusted JSON text of a tokenizer.json; `name` stands for the file in messages.
/// Throws kCorrupt and kUnsupported.
TokenizerParts read_tokenizer_json(std::string_view text, const std::string& name);

}  // namespace deltacome
