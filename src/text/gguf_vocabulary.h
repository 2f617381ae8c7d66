// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace deltacome {

/// A tokenizer as GGUF files describe it to llama.cpp.
struct GgufVocabulary {
  std::string model;  // "llama" (SentencePiece) or "gpt2" (byte-level BPE)
  std::string pre;  // how a text is split before merging: "default", "llama-bpe", "qwen2", "gpt-2"
  std::vector<std::string> tokens;
  std::vector<float> scores;   // of "llama": pieces are merged by score
  std::vector<int32_t> types;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  std::vector<std::string> merges;  // of "gpt2", "left right"
  int64_t unknown_id = -1;          // negative: none
  bool add_space_prefix = false;
  bool add_bos = false, add_eos = false;  // around a text
  std::vector<std::string> notes;         // where llama.cpp may split a text differently
};

/// The tokenizer.json of a directory for a model of n_rows embeddings: rows without a token become
/// unused ones. Throws what Tokenizer::load() throws; kUnsupported for what llama.cpp has no name
/// for, kMismatch for a token beyond the embeddings.
GgufVocabulary gguf_vocabulary(const std::filesystem::path& directory, int64_t n_rows);

}  // namespace deltacome
