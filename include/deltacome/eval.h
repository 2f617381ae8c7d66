// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace deltacome {

/// What is scored: `base`, base + `delta` (an archive, or a LoRA adapter in PEFT's layout), or
/// `model` on its own (a fine-tune or a merged checkpoint).
struct EvalOptions {
  std::filesystem::path base;
  std::vector<std::filesystem::path> base_deltas = {};  // archives that make the base what it is
  std::optional<std::filesystem::path> delta;
  std::optional<std::filesystem::path> model;
  std::optional<std::filesystem::path>
      reference;               // checkpoint that KL and top-1 are measured against
  std::filesystem::path data;  // .jsonl rows {prompt, response, answer?}
  int64_t limit = 0;           // first rows only; 0 = all
  int64_t max_tokens = 160;    // of a greedy generation
  bool generate = true;        // greedy exact match where rows have an answer
  std::optional<std::filesystem::path>
      generations;             // write {prompt, completion, ...} rows here, for all rows
  std::string device = "cpu";  // cpu, cuda (the first GPU) or cuda:N
  int n_threads = 0;
  std::string base_dtype = "auto";  // of the candidate's weights: auto, bf16, int8, int4
  std::string kv_dtype = "f32";     // of the candidate's cache: f32, bf16, int8
};

/// Means over response tokens (the end-of-sequence token counts as one); negative = not measured.
struct EvalResult {
  double nll = -1;          // of the response under the candidate, nats per token
  double kl = -1;           // KL(reference || candidate), nats per token
  double top1 = -1;         // share of tokens where both have the same most likely token
  double exact_match = -1;  // share of rows with an answer whose greedy completion gives it
  int64_t tokens = 0;       // response tokens scored
  int64_t rows = 0;
  int64_t answered_rows = 0;
  double seconds = 0;
};

/// Each row is its own sequence: BOS + prompt + response + EOS. Throws Error. on_progress(done,
/// total).
EvalResult evaluate(const EvalOptions& options,
                    const std::function<void(int64_t, int64_t)>& on_progress = {});

}  // namespace deltacome
