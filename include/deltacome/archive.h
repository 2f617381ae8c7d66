// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace deltacome {

/// One tier of a low-rank tensor: how many components, and the bits of their vectors.
struct TierInfo {
  int64_t rank = 0;
  int v_bits = 0;
  int u_bits = 0;
};

/// One tensor that an archive stores. Figures that were not measured are negative.
struct TensorInfo {
  std::string name;
  std::string kind;   // "q_proj", ..., "down_proj", "embed_tokens", "lm_head", "norm", "bias",
                      // "vision_tower", "multi_modal_projector"
  std::string codec;  // "raw", "dense", "lowrank", "vector"
  std::vector<int64_t> shape;
  int64_t bytes = 0;           // stored, everything included
  double bits_per_weight = 0;  // 8 * bytes / elements
  int64_t rank = 0;
  std::vector<TierInfo> tiers;
  int vector_dim = 0;  // weights a code of 8 bits stands for; 0: no vector code
  bool row_gain = false, column_gain = false;  // stored beside the codes
  double relative_error = -1;  // E|(dW' - dW) x|^2 / E|dW x|^2 over the calibration inputs
  double energy = -1;          // share of |dW|_F^2 in the kept components
  double stable_rank = -1;     // |dW|_F^2 / s_1^2
};

/// What is in an archive, or in a LoRA adapter: there the hash and architecture of the base are
/// empty, and bits_per_weight, finetuned_bytes and ratio, which need the base, negative. Sizes in
/// bytes.
struct ArchiveInfo {
  std::string method, architecture, created_by;
  std::string base_name, base_hash, finetuned_name, finetuned_hash;
  std::string base_quantization;  // how the base's weights are quantized; empty: they are not
  double requested_bits = 0;      // 0: none were (method "lora")
  double bits_per_weight = 0;     // 8 * projection_bytes / projection weights
  int64_t projection_bytes = 0;
  int64_t embedding_bytes = 0;  // embeddings and lm_head, with added rows
  int64_t vision_bytes = 0;     // vision tower and projector
  int64_t other_bytes = 0;      // norms and biases
  int64_t header_bytes = 0;     // all_in_bytes less the four above
  int64_t all_in_bytes = 0;     // every file but the tokenizer's (adapter: its two files)
  int64_t tokenizer_bytes = 0;
  int64_t finetuned_bytes = 0;  // the fine-tune's checkpoint in bf16
  double ratio = 0;             // all_in_bytes / finetuned_bytes
  std::vector<std::string> calibration_files;
  int64_t calibration_tokens = 0;
  int64_t calibration_sequence_length = 0;
  uint64_t seed = 0;
  struct HeldOut {
    std::string file;
    int64_t tokens = 0;
    double kl = 0, top1 = 0;
  };
  std::optional<HeldOut> held_out;
  std::vector<TensorInfo> tensors;
};

/// Describes the archive, or the LoRA adapter in PEFT's layout, in `directory`. Throws Error
/// (kNotFound, kCorrupt, kUnsupported).
ArchiveInfo inspect_archive(const std::filesystem::path& directory);

/// Checks every byte of an archive against its hashes, and that it was made from `base` if one is
/// given. Returns notes (files that do not belong to it); throws Error (kCorrupt, kMismatch) at the
/// first fault.
std::vector<std::string> verify_archive(const std::filesystem::path& directory,
                                        const std::optional<std::filesystem::path>& base = {});

/// How a quantized base relates to the base in full precision that it was made from.
struct BaseRelation {
  std::string scheme;        // "GPTQ, 4 bits, groups of 128"
  double largest_error = 0;  // over its matrices, ||quantized - full||_F / ||full||_F
};

/// Compares a quantized checkpoint with the full-precision one it was made from, and records their
/// relation in its directory, as deltacome_base.json: deltas that were made from `full` are then
/// accepted on `quantized`. Throws kMismatch naming the tensor if they are not the same model,
/// kInvalidArgument if `quantized` is not quantized or `full` is.
BaseRelation relate_bases(const std::filesystem::path& quantized,
                          const std::filesystem::path& full);

/// Writes the fine-tune that base + archive stand for as a Hugging Face checkpoint, in the
/// fine-tune's dtype (tensors that equal the base's in the base's). `out` must not exist or be
/// empty; it appears whole or not at all.
void merge_archive(const std::filesystem::path& base, const std::filesystem::path& archive,
                   const std::filesystem::path& out, int n_threads = 0);

}  // namespace deltacome
