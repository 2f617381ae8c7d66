// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace deltacome {

struct ModelOptions {
  std::filesystem::path model;  // a Hugging Face checkpoint: base or fine-tune
  std::vector<std::filesystem::path> base_deltas = {};  // archives that make it the delta's base
  std::optional<std::filesystem::path> delta;  // an archive made from it, or a LoRA adapter
  std::string device = "cpu";                  // cpu, cuda (the first GPU) or cuda:N
  int n_threads = 0;                           // of the CPU; 0 = one per core
  std::string base_dtype = "auto";  // weights in memory: auto (as stored), bf16, int8, int4
  std::string kv_dtype = "f32";     // of keys and values in the cache: f32, bf16, int8
};

struct GenerateOptions {
  int64_t max_tokens = 256;
  double temperature = 0;  // 0 = greedy
  int top_k = 0;           // 0 = off
  double top_p = 1;        // 1 = off
  double min_p = 0;        // 0 = off
  uint64_t seed = 0;
  std::vector<std::string> images = {};  // PNG, JPEG or WebP files (their bytes), one for each
                                         // image token of the prompt
};

struct ChatTurn {
  std::string role, content;
};

struct GenerateResult {
  std::string text;
  std::vector<int32_t> prompt_tokens, tokens;
  std::string finish_reason;  // "stop" (end-of-sequence token) or "length"
  double prefill_s = 0, decode_s = 0;
};

/// A model with its tokenizer, alone or with one delta on top. The delta stays packed in memory.
/// One thread at a time.
class LanguageModel {
 public:
  /// Throws Error; kMismatch if the archive was made from another base.
  static LanguageModel open(const ModelOptions& options);
  LanguageModel(LanguageModel&&) noexcept;
  LanguageModel& operator=(LanguageModel&&) noexcept;
  ~LanguageModel();

  std::vector<int32_t> encode(const std::string& text, bool add_special_tokens = true) const;
  std::string decode(const std::vector<int32_t>& tokens, bool skip_special_tokens = true) const;
  /// The prompt text of a conversation, by the model's chat template. Throws kUnsupported if it has
  /// none, or what was wrong with it when the model was opened.
  std::string chat_prompt(const std::vector<ChatTurn>& turns) const;
  /// What stands for a picture in a prompt, as "<image>"; empty if the model takes no pictures.
  std::string image_token() const;

  /// Continues `prompt`, at most to the end of the model's context. Throws kInvalidArgument for a
  /// prompt that is empty or fills it, or that has other than one image token for each picture.
  /// on_text receives pieces of whole UTF-8 characters as they are made; returning false ends the
  /// generation. `prompt_has_special_tokens`: the text already begins with what the tokenizer would
  /// add (chat prompts).
  GenerateResult generate(const std::string& prompt, const GenerateOptions& options,
                          const std::function<bool(const std::string&)>& on_text = {},
                          bool prompt_has_special_tokens = false);

  int64_t weight_bytes() const;  // of the base in memory
  int64_t delta_bytes() const;   // of the packed delta in memory; 0 without one
  std::string device() const;    // "cpu (AVX-512, 2 threads)"

 private:
  struct Impl;
  explicit LanguageModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace deltacome
