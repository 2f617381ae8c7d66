// SPDX-License-Identifier: Apache-2.0
// deltacome bench memory: what a base and its variants take, all of them answering at once.
#include <fmt/format.h>

#include <chrono>
#include <future>
#include <memory>

#include "bench_options.h"

namespace deltacome::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Variants whose requests, all of them open at once, got all their tokens.
int64_t answer_all(Engine& engine, const BenchEngineOptions& options,
                   const std::vector<std::string>& variants, int64_t n_tokens) {
  struct State {
    std::mutex mutex;
    int64_t n_open = 0, n_answered = 0;
    std::promise<void> done;
  };
  const auto state = std::make_shared<State>();
  state->n_open = static_cast<int64_t>(variants.size());
  for (size_t i = 0; i < variants.size(); ++i) {
    engine.submit(options.request(variants[i], i, n_tokens), [state](const TokenEvent& event) {
      if (event.finish == FinishReason::kNone) return;
      const std::lock_guard lock(state->mutex);
      if (event.finish == FinishReason::kLength) ++state->n_answered;
      if (--state->n_open == 0) state->done.set_value();
    });
  }
  state->done.get_future().wait();
  return state->n_answered;
}

void bench_memory(const BenchEngineOptions& options, int64_t n_tokens) {
  const auto start = Clock::now();
  Engine engine(options.engine_options());
  const double opened = seconds_since(start);
  std::vector<std::string> variants;
  std::vector<double> load_times;
  for (const std::string& delta : options.deltas) {
    const auto asked = Clock::now();
    variants.push_back(fmt::format("variant{}", variants.size()));
    engine.load(variants.back(), delta);
    load_times.push_back(seconds_since(asked));
  }
  const auto asked = Clock::now();
  const int64_t answered = answer_all(engine, options, variants, n_tokens);
  const double answering = seconds_since(asked);
  const EngineStats stats = engine.stats();
  const DeviceMemoryUse use = engine.device_memory();
  print_report(
      {{"device", engine.device()},
       {"variants", variants.size()},
       {"answered", answered},
       {"preemptions", stats.preemptions},
       {"evictions", stats.evictions},
       {"kv_tokens", stats.kv_blocks * stats.kv_block_tokens},
       {"kv_tokens_asked_for", static_cast<int64_t>(variants.size()) * (options.prompt + n_tokens)},
       {"base_bytes", stats.base_bytes},
       {"variant_bytes", stats.variant_bytes},
       {"kv_bytes", stats.kv_bytes},
       {"device_weights_bytes", use.weights},
       {"device_variants_bytes", use.variants},
       {"device_kv_bytes", use.kv_cache},
       {"device_workspace_bytes", use.workspace},
       {"device_held_bytes", use.held},
       {"device_peak_bytes", use.peak},
       {"device_budget_bytes", use.budget},
       {"device_used_bytes", use.device_total - use.device_free},
       {"device_total_bytes", use.device_total},
       {"open_base_s", opened},
       {"load_s", distribution(std::move(load_times))},
       {"answer_all_s", answering}},
      options.json);
  engine.stop(false);
}

}  // namespace

void add_bench_memory(CLI::App& bench) {
  const auto o = std::make_shared<BenchEngineOptions>();
  const auto n_tokens = std::make_shared<int64_t>(16);
  CLI::App* c = bench.add_subcommand(
      "memory", "Load variants, answer one request to each at once, and say what takes memory");
  add_bench_engine_options(*c, *o);
  c->add_option("--output", *n_tokens, "Tokens of an answer; default 16")
      ->type_name("N")
      ->check(integer_in(1, 1 << 24));
  c->callback([o, n_tokens] { bench_memory(*o, *n_tokens); });
}

}  // namespace deltacome::cli
