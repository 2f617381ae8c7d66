// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <random>
#include <vector>

#include "cli.h"
#include "deltacome/engine.h"

namespace deltacome::cli {

/// The engine of a measurement, and what it is asked.
struct BenchEngineOptions {
  EngineOptions engine;
  std::vector<std::string> deltas;
  double kv_gib = 1, variant_gib = 4;
  int64_t prompt = 32;  // tokens
  bool json = false;

  /// Queues that are never full, and memory in bytes.
  EngineOptions engine_options() const {
    EngineOptions out = engine;
    out.kv_cache_bytes = static_cast<int64_t>(kv_gib * 0x1p30);
    out.variant_bytes = static_cast<int64_t>(variant_gib * 0x1p30);
    out.max_waiting = out.max_waiting_per_tenant = std::numeric_limits<int32_t>::max();
    return out;
  }
  /// A greedy request with a prompt of its own, by `content`.
  EngineRequest request(const std::string& variant, uint64_t content, int64_t max_tokens) const;
};

/// --base, which is required, --delta, --device and the sizes of the engine.
void add_bench_engine_options(CLI::App& command, BenchEngineOptions& options);

/// Token ids that every vocabulary has.
inline int32_t random_token(std::mt19937_64& rng) {
  return static_cast<int32_t>(3 + rng() % 200);
}

/// "mean", "p50", "p90", "p99" and "max" of values; all 0 if there are none.
nlohmann::ordered_json distribution(std::vector<double> values);

/// A report as lines of names and values, distributions on one line.
void print_report(const nlohmann::ordered_json& report, bool json);

}  // namespace deltacome::cli
