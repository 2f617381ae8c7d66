// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace deltacome {

struct BenchOptions {
  std::string device = "cpu";                 // cpu, cuda or cuda:N
  std::string shape = "1b";                   // of a random base: 1b (Llama-3.2), 7b (Llama-2)
  std::optional<std::filesystem::path> base;  // a checkpoint to measure instead
  int64_t n_layers = 0;                       // of a random base, fewer than its shape has; 0 = all
  int64_t vocab_size = 0;                     // of a random base; 0 = its shape's
  std::string base_dtype = "auto";            // auto (as stored), bf16, int8, int4
  std::string kv_dtype = "f32";               // f32, bf16, int8
  /// Random deltas of about `bits` a weight: come (8, 3, 2 bits, scales per group), auto (2 bits,
  /// one scale), vector, dense, lora (rank 16).
  std::string delta = "come";
  double bits = 1;
  bool vocabulary = false;          // deltas of embedding and head too, 4 bits (make)
  int64_t n_variants = 8;           // distinct deltas of the mixed step
  std::vector<int64_t> mixes;       // also mixed steps of so many of them (decode)
  bool whole_models = false;        // beside the mixed step as many whole models (decode)
  int64_t batch = 8;                // sequences of the other batched steps
  int64_t context = 128;            // tokens in the cache (decode)
  int64_t prompt = 512;             // tokens (prefill)
  int repeats = 10;                 // rounds; in each everything is measured once
  int n_threads = 0;                // 0 = one per core
  int64_t device_memory_bytes = 0;  // as EngineOptions::device_memory_bytes
};

/// One thing that was measured: the fastest of all rounds.
struct BenchEntry {
  std::string name;
  double ms = 0;            // of a step
  double tokens_per_s = 0;  // of all sequences
  double bytes = 0;         // weights and deltas that a step reads
  double of_roof = 0;       // bytes / ms over the read roof (decode); negative = not measured
  double ratio = 0;         // ms over that of the base alone at the same batch
};

struct BenchReport {
  std::string device, base, delta;
  /// CPU: reads, all threads, a buffer larger than the caches; GPU: y += x, two reads and a write.
  double read_gb_per_s = 0;
  double gemm_gflop_per_s = 0;  // CPU: float32, the BLAS library; GPU: bf16
  int64_t weight_bytes = 0;     // of the base in memory
  int64_t delta_bytes = 0;      // of one delta as stored
  int64_t delta_resident_bytes = 0;
  std::vector<BenchEntry> entries;
};

/// One token a sequence: the base with 1 sequence and with `batch`, one sequence with a delta, a
/// batch of one variant, a batch of `n_variants` distinct ones, and if asked for as many whole
/// models, one after another. The steps of a round run one after another, so that ratios hold on a
/// machine that is disturbed. Throws Error.
BenchReport bench_decode(const BenchOptions& options,
                         const std::function<void(int64_t, int64_t)>& on_progress = {});
/// A prompt of one sequence: the base alone, and with a delta.
BenchReport bench_prefill(const BenchOptions& options,
                          const std::function<void(int64_t, int64_t)>& on_progress = {});

/// Writes a random base as a checkpoint, out/base, `n_variants` random deltas of it as archives,
/// out/delta0 and so on, and `n_models` more checkpoints of the same shape, out/model0 and so on.
/// Throws kInvalidArgument if `out` is not empty, kIo.
void write_synthetic(const BenchOptions& options, int64_t n_models,
                     const std::filesystem::path& out);

}  // namespace deltacome
