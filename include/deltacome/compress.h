// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "deltacome/archive.h"

namespace deltacome {

enum class Method {
  kAuto,      // the best of low-rank tiers and codes of the whole delta, measured; distilled
  kCome,      // Delta-CoMe: singular vectors in tiers of 8, 3 and 2 bits (arXiv:2406.08903)
  kLowRank,   // truncated SVD, 16-bit factors
  kBitDelta,  // sign of the delta and one scale per matrix (arXiv:2402.10193)
};

/// How much work `auto` does. fast: no distillation; balanced and best: a shorter and a longer one.
enum class Profile { kFast, kBalanced, kBest };

/// Codes that `auto` may use.
enum class CodeFamily {
  kAuto,     // what measures best, matrix by matrix
  kLowRank,  // tiers of singular vectors only
  kWhole,    // codes of the whole delta only
};

struct CompressOptions {
  std::filesystem::path base, finetuned, out;
  std::string finetuned_name = {};  // what the archive calls it; empty: as its directory
  std::vector<std::filesystem::path> base_deltas = {};  // archives that make the base what it is
  double bits = 1.0;  // stored bits per projection weight, everything included
  Method method = Method::kAuto;
  Profile profile = Profile::kBalanced;
  CodeFamily codes = CodeFamily::kAuto;
  std::optional<double> distill_minutes =
      {};                                // of auto and bitdelta; 0 = none; unset: by the profile
  std::optional<double> target_kl = {};  // the smallest archive with at most this held-out KL
  std::optional<std::filesystem::path> report = {};     // directory for an HTML report
  std::vector<std::filesystem::path> calibration = {};  // .jsonl with "text", or plain text
  std::optional<int64_t> calibration_tokens = {};       // unset: by the profile
  int vision_bits = 8;         // of a vision tower and projector: 8, or 16 (as they are)
  int64_t group = 128;         // codes that share a scale
  std::string device = "cpu";  // cpu, cuda (the first GPU) or cuda:N
  int n_threads = 0;           // of the CPU; 0 = one per core
  uint64_t seed = 0;           // which calibration rows
  bool resume = false;         // continue after the last finished layer of an interrupted run
  // Rows to measure KL and top-1 on, kept in the archive.
  std::optional<std::filesystem::path> held_out = {};
};

/// Where a compression is. Sent after every matrix.
struct CompressProgress {
  int64_t layer = 0, n_layers = 0;
  std::string stage;       // "model.layers.3.mlp.up_proj", "embeddings", "writing"
  double mean_error = -1;  // relative output error so far, mean over matrices; negative = none yet
  double elapsed_s = 0, remaining_s = -1;  // remaining < 0: not known yet
};

/// Means over the matrices of one kind.
struct KindSummary {
  std::string kind;
  int64_t matrices = 0;
  double rank = 0, bits_per_weight = 0, relative_error = -1;
};

/// A way to spend the budget that was coded and measured on held-back calibration text,
/// whose passages weigh by the fine-tune's certainty (docs/quantization.md).
struct TriedMethod {
  std::string name;
  double bits_per_weight = 0, kl = 0;
  bool chosen = false;
};

struct CompressReport {
  ArchiveInfo archive;
  std::vector<TriedMethod> tried;
  std::vector<KindSummary> kinds;
  std::vector<std::string> notes;  // what the user should know, one sentence each
  double seconds = 0;
  int64_t peak_resident_bytes = 0;
  int64_t peak_device_bytes = 0;  // of a device with memory of its own
};

/// Compresses the fine-tune against its base into an archive. A LoRA adapter in PEFT's layout is
/// converted instead, its factors in 16 bits, and so is a diff of the original BitDelta (a file
/// diff.pt of torch.save): all but the three paths is ignored then. Throws
/// Error; the output directory appears whole or not at all, finished layers are kept in
/// "<out>.partial" for `resume`. on_progress is called on the calling thread.
CompressReport compress_delta(const CompressOptions& options,
                              const std::function<void(const CompressProgress&)>& on_progress = {});

}  // namespace deltacome
