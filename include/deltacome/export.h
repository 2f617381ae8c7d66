// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace deltacome {

/// How several deltas of one base become one; docs/export.md has the formulas.
enum class Combination {
  kLinear,  // sum of weight * delta (task arithmetic, arXiv:2212.04089)
  kTies,    // trimmed, one sign elected per element, mean of those that have it (arXiv:2306.01708)
  kDare,    // elements dropped at random, the rest scaled up, then the sum (arXiv:2311.03099)
};

/// A model that commands write in some format: a base, and fine-tunes of it.
struct ModelParts {
  std::filesystem::path base;
  std::vector<std::filesystem::path>
      base_deltas;  // archives that make the base what it is, in order
  std::vector<std::filesystem::path>
      deltas;                   // archives, LoRA adapters, checkpoints; none: the base
  std::vector<double> weights;  // of the deltas; empty: 1 (kTies), 1 / their number (others)
  Combination combination = Combination::kLinear;
  std::optional<double> density;  // share of elements that kTies (default 0.2), kDare (0.5) keep
  uint64_t seed = 0;              // of kDare
  int n_threads = 0;              // 0 = one per core
};

struct CheckpointOptions {
  ModelParts model;
  std::filesystem::path out;
  std::string dtype;                                 // "bf16", "f16", "f32"; empty: the fine-tune's
  int64_t max_shard_bytes = int64_t{5'000'000'000};  // a larger tensor has a shard of its own
};
struct CheckpointReport {
  int64_t tensors = 0, bytes = 0, shards = 0;
};
/// Writes the model as a Hugging Face checkpoint: weights (tensors that equal the base's in the
/// base's dtype, unless one is given), configurations, tokenizer, chat template. `out` must not
/// exist or be empty; it appears whole or not at all. Throws Error.
CheckpointReport write_checkpoint(const CheckpointOptions& options);

struct GgufOptions {
  ModelParts model;
  std::filesystem::path out;  // the file; must not exist
  std::string type = "f16";   // of matrices: f32, f16, bf16, q8_0
};
struct GgufReport {
  int64_t tensors = 0, bytes = 0;
  std::vector<std::string> notes;  // what llama.cpp computes differently, one sentence each
};
/// Writes the model as one GGUF file for llama.cpp, with tokenizer and chat template; it appears
/// whole or not at all. Throws Error: kUnsupported for a tokenizer that llama.cpp does not know.
GgufReport write_gguf(const GgufOptions& options);

struct PeftOptions {
  std::filesystem::path base;
  std::vector<std::filesystem::path> base_deltas;
  std::filesystem::path finetuned;  // archive, LoRA adapter or checkpoint
  std::filesystem::path out;
  int64_t rank = 16;
  std::string dtype = "f32";                       // of the factors: f32, f16, bf16
  std::vector<std::filesystem::path> calibration;  // .jsonl with "text", or plain text
  int64_t calibration_tokens = 65536;
  uint64_t seed = 0;  // which calibration rows
  int n_threads = 0;
};
struct PeftKind {
  std::string kind;  // "q_proj", ...
  int64_t matrices = 0;
  double error = 0;          // mean of |dW - B A|_F^2 / |dW|_F^2
  double output_error = -1;  // mean of E|(dW - B A) x|^2 / E|dW x|^2; negative: no calibration
};
struct PeftReport {
  std::vector<PeftKind> kinds;
  int64_t bytes = 0, calibration_tokens = 0;
  std::vector<std::string> notes;  // what of the fine-tune the adapter does not hold
};
/// Writes the best LoRA adapter of a rank, in PEFT's layout: least |dW - B A|_F, or with
/// calibration text least E|(dW - B A) x|^2 over the fine-tune's own inputs x. Throws Error.
PeftReport export_peft(const PeftOptions& options);

/// Two fine-tunes of one base against each other; figures of tensors that do not move are 0.
struct DiffOptions {
  std::filesystem::path base;
  std::vector<std::filesystem::path> base_deltas;
  std::filesystem::path a, b;  // archives, LoRA adapters or checkpoints
  int n_threads = 0;
};
struct TensorDiff {
  std::string name, kind;
  int64_t layer = -1;                                  // -1 outside of layers
  double base_square = 0, a_square = 0, b_square = 0;  // |W|_F^2, |dA|_F^2, |dB|_F^2
  double dot = 0;                                      // <dA, dB>
  int64_t added_rows_a = 0, added_rows_b = 0;          // of a larger vocabulary
};
struct DiffReport {
  std::string form_a, form_b;       // "archive", "adapter", "checkpoint"
  std::vector<TensorDiff> tensors;  // in model order; rows that the base has
};
DiffReport diff_finetunes(const DiffOptions& options);

struct CardOptions {
  std::filesystem::path archive;
  std::string base_model = {};  // as the hub names it; empty: the base's directory name
  std::string license = {};     // empty: the card names none
};
/// The text of a model card (Markdown with YAML front matter) for an archive.
std::string model_card(const CardOptions& options);
/// Writes it as README.md of the archive, which is not part of what verify_archive() checks. Throws
/// kInvalidArgument if there is one already and `replace` is false.
void write_model_card(const CardOptions& options, bool replace);

/// Throws kMismatch unless the archive was made over `base` with `base_deltas` on it.
void check_lineage(const std::filesystem::path& archive, const std::filesystem::path& base,
                   const std::vector<std::filesystem::path>& base_deltas);

}  // namespace deltacome
