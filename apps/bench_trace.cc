// SPDX-License-Identifier: Apache-2.0
// deltacome bench trace: a made-up day of traffic, run through the engine.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>

#include "bench_options.h"
#include "cli.h"
#include "swapped_models.h"
#include "trace_run.h"
#include "trace_search.h"

namespace deltacome::cli {
namespace {

struct Options {
  EngineOptions engine;
  std::string base;
  std::vector<std::string> deltas, merged;
  int n_variants = 0, slots = 1;
  double kv_gib = 1, variant_gib = 4;
  TraceOptions trace;
  SearchOptions search;
  bool json = false;
};

/// What is measured, and the names that it knows.
struct Served {
  std::unique_ptr<TraceServer> server;
  std::vector<std::string> variants;
};

Served serve_deltas(const Options& options) {
  auto server = std::make_unique<EngineServer>(options.engine);
  std::vector<std::string> variants;
  if (options.deltas.empty()) variants.emplace_back();
  const size_t n = options.deltas.empty()   ? 0
                   : options.n_variants > 0 ? static_cast<size_t>(options.n_variants)
                                            : options.deltas.size();
  for (size_t i = 0; i < n; ++i) {
    variants.push_back(fmt::format("variant{}", i));
    server->engine().load(variants.back(), options.deltas[i % options.deltas.size()]);
  }
  return {std::move(server), std::move(variants)};
}

Served swap_models(const Options& options) {
  std::map<std::string, std::filesystem::path> models;
  std::vector<std::string> variants;
  for (const std::string& directory : options.merged) {
    variants.push_back(fmt::format("variant{}", variants.size()));
    models[variants.back()] = directory;
  }
  const int slots = std::min(options.slots, static_cast<int>(variants.size()));
  return {std::make_unique<SwappedModels>(options.engine, std::move(models), slots), variants};
}

void bench_trace(Options options) {
  try {
    popularity_of(options.trace.workload.popularity, 1);
  } catch (const std::invalid_argument& error) {
    throw CLI::ValidationError(error.what());
  }
  const WorkloadOptions& w = options.trace.workload;
  if (w.input_low >= w.input_high || w.output_low >= w.output_high)
    throw CLI::ValidationError("a range of lengths is empty");
  const auto bytes = [](double gib) { return static_cast<int64_t>(gib * 1024 * 1024 * 1024); };
  if (options.base.empty() == options.merged.empty())
    throw CLI::ValidationError("expected either --base or --merged");
  if (options.search.runs > 0 &&
      (options.trace.flood > 0 || options.trace.neighbour > 0 || !options.trace.reloaded.empty()))
    throw CLI::ValidationError("--search takes none of --flood, --neighbour and --reload");
  if (!options.merged.empty() && !(options.deltas.empty() && options.trace.reloaded.empty()))
    throw CLI::ValidationError("--merged takes neither --delta nor --reload");
  options.engine.base = options.base;
  options.engine.kv_cache_bytes = bytes(options.kv_gib);
  options.engine.variant_bytes = bytes(options.variant_gib);
  options.engine.max_waiting = options.engine.max_waiting_per_tenant =
      std::numeric_limits<int32_t>::max();
  const auto [server, variants] =
      options.merged.empty() ? serve_deltas(options) : swap_models(options);
  if (options.search.runs == 0) {
    TraceRun run(*server, options.trace, variants);
    run.go();
    server->stop();
    print_report(run.report(), options.json);
  } else {
    print_search(highest_rate(*server, options.trace, variants, options.search), options.json);
  }
}

}  // namespace

void add_bench_trace(CLI::App& bench) {
  const auto o = std::make_shared<Options>();
  CLI::App* c = bench.add_subcommand(
      "trace", "Run made-up traffic through the engine: throughput, latencies, fairness");
  add_path(*c, "--base", o->base, "Base checkpoint");
  add_path(*c, "--delta", o->deltas, "Archive or LoRA adapter; repeat for more. None: the base");
  add_path(*c, "--merged", o->merged,
           "Instead of base and deltas a whole model; repeat for more. They are swapped: --slots");
  c->add_option("--slots", o->slots, "Whole models in memory at a time; default 1")
      ->check(integer_in(1, 1024));
  const auto positive = number_in(1e-6, 1e9);
  c->add_option("--variants", o->n_variants, "Load the deltas as this many variants, in turn")
      ->type_name("N")
      ->check(integer_in(1, 100000));
  c->add_option("--rate", o->trace.workload.rate, "Requests a second; default 1")->check(positive);
  c->add_option("--duration", o->trace.workload.duration_s, "Seconds of arrivals; default 60")
      ->check(positive);
  c->add_option("--cv", o->trace.workload.cv, "Of the gaps (Gamma); 1 = Poisson (default)")
      ->check(positive);
  c->add_option("--popularity", o->trace.workload.popularity,
                "uniform (default), zipf:S, deltazip:A or power:A");
  c->add_option("--input-low", o->trace.workload.input_low, "Prompt tokens, from; default 8")
      ->check(integer_in(1, 1 << 24));
  c->add_option("--input-high", o->trace.workload.input_high, "to less than; default 512")
      ->check(integer_in(2, 1 << 24));
  c->add_option("--output-low", o->trace.workload.output_low, "Answer tokens, from; default 8")
      ->check(integer_in(1, 1 << 24));
  c->add_option("--output-high", o->trace.workload.output_high, "to less than; default 512")
      ->check(integer_in(2, 1 << 24));
  c->add_option("--shared-prefix", o->trace.workload.shared_prefix,
                "First tokens that a tenant's prompts share; default 0")
      ->check(integer_in(0, 1 << 24));
  c->add_option("--tenants", o->trace.workload.n_tenants, "Default 1")->check(integer_in(1, 10000));
  c->add_option(
       "--flood", o->trace.flood,
       "Requests of one more tenant, all at the start; the figures are those of the others")
      ->check(integer_in(0, 1 << 24));
  c->add_option("--neighbour", o->trace.neighbour,
                "Requests that one more tenant keeps going; the figures are those of the others")
      ->check(integer_in(0, 1 << 16));
  add_path(*c, "--reload", o->trace.reloaded,
           "Archive or adapter that is loaded over and over meanwhile");
  c->add_option("--slo", o->trace.slo_s, "Seconds to the first token; default 6")->check(positive);
  c->add_option(
       "--search", o->search.runs,
       "Look for the highest rate at which 90 % of the first tokens come within --slo, in so "
       "many runs; --rate is the first")
      ->type_name("N")
      ->check(integer_in(0, 100));
  c->add_option(
       "--within", o->search.within,
       "Ratio of the rates between which the limit lies when the search ends; default 1.15")
      ->check(number_in(1.001, 100));
  c->add_option("--seed", o->trace.workload.seed, "Default 42");
  c->add_option("--kv-gib", o->kv_gib, "Memory for keys and values; default 1")->check(positive);
  c->add_option("--variant-gib", o->variant_gib, "Memory for variants; default 4")->check(positive);
  c->add_option("--max-sequences", o->engine.max_sequences, "Answers at once; default 32")
      ->check(integer_in(1, 65536));
  c->add_option("--step-tokens", o->engine.step_tokens, "Rows of a step; default 512")
      ->check(integer_in(1, 1 << 20));
  c->add_flag("--strict-shares", o->engine.strict_shares,
              "No tenant gets more seats than its share while others are active");
  add_device_option(*c, o->engine.device);
  add_device_memory_option(*c, o->engine.device_memory_bytes);
  add_threads_option(*c, o->engine.n_threads);
  add_base_dtype_option(*c, o->engine.base_dtype);
  add_kv_dtype_option(*c, o->engine.kv_dtype);
  add_json_option(*c, o->json);
  c->callback([o] { bench_trace(*o); });
}

}  // namespace deltacome::cli
