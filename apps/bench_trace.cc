// SPDX-License-Identifier: Apache-2.0
// deltacome bench trace: a made-up day of traffic, run through the engine.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

#include "cli.h"
#include "deltacome/engine.h"
#include "trace_workload.h"

namespace deltacome::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  EngineOptions engine;
  std::string base;
  std::vector<std::string> deltas;
  int n_variants = 0;
  double kv_gib = 1, variant_gib = 4;
  WorkloadOptions workload;
  int64_t flood = 0;
  double slo_s = 6;
  bool json = false;
};

/// What became of one request; times in seconds since the start of the run.
struct Record {
  TraceRequest request;
  std::string tenant;
  std::vector<double> tokens;  // when each came
  double finished = -1;
  bool refused = false, failed = false;
};

class Run {
 public:
  Run(Engine& engine, const Options& options, std::vector<std::string> variants)
      : engine_(engine), options_(options), variants_(std::move(variants)) {
    const WorkloadOptions& w = options.workload;
    for (const TraceRequest& r : make_trace(w, static_cast<int>(variants_.size())))
      records_.push_back({.request = r, .tenant = fmt::format("tenant{}", r.tenant), .tokens = {}});
    WorkloadOptions burst = w;
    burst.seed = w.seed + 1;
    burst.rate = static_cast<double>(options.flood);
    burst.duration_s = 1.5;  // enough that the law gives `flood` of them
    if (options.flood == 0) return;
    std::vector<TraceRequest> crowd = make_trace(burst, static_cast<int>(variants_.size()));
    crowd.resize(std::min(crowd.size(), static_cast<size_t>(options.flood)));
    std::vector<Record> all;
    for (TraceRequest& r : crowd) {
      r.arrival_s = 0;
      all.push_back({.request = r, .tenant = "flood", .tokens = {}});
    }
    all.insert(all.end(), records_.begin(), records_.end());
    records_ = std::move(all);
  }

  void go() {
    start_ = Clock::now();
    for (size_t i = 0; i < records_.size(); ++i) {
      std::this_thread::sleep_until(
          start_ + std::chrono::duration_cast<Clock::duration>(
                       std::chrono::duration<double>(records_[i].request.arrival_s)));
      submit(i);
    }
    engine_.stop(true);
    elapsed_s_ = since_start();
  }

  nlohmann::ordered_json report() const;

 private:
  double since_start() const {
    return std::chrono::duration<double>(Clock::now() - start_).count();
  }

  void submit(size_t i) {
    Record& record = records_[i];
    EngineRequest request;
    request.variant = variants_[static_cast<size_t>(record.request.variant)];
    request.tenant = record.tenant;
    request.max_tokens = record.request.n_output;
    request.ignore_eos = true;
    request.sampling.temperature = 0;
    // Ids that every vocabulary has; a tenant's prompts share as much as was asked for.
    std::mt19937_64 shared(static_cast<uint64_t>(record.request.tenant)), own(i + 1000);
    for (int64_t t = 0; t < record.request.n_input; ++t) {
      std::mt19937_64& rng = t < options_.workload.shared_prefix ? shared : own;
      request.prompt.push_back(static_cast<int32_t>(3 + rng() % 200));
    }
    try {
      engine_.submit(std::move(request), [this, i](const TokenEvent& event) {
        const double now = since_start();
        const std::lock_guard lock(mutex_);
        if (event.token) records_[i].tokens.push_back(now);
        if (event.finish != FinishReason::kNone) records_[i].finished = now;
        if (event.error) records_[i].failed = true;
      });
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kOverloaded) throw;
      const std::lock_guard lock(mutex_);
      record.refused = true;
    }
  }

  Engine& engine_;
  const Options& options_;
  std::vector<std::string> variants_;
  std::mutex mutex_;
  std::vector<Record> records_;
  Clock::time_point start_;
  double elapsed_s_ = 0;
};

nlohmann::ordered_json distribution(std::vector<double> values) {
  std::ranges::sort(values);
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {{"mean", values.empty() ? 0 : sum / static_cast<double>(values.size())},
          {"p50", percentile(values, 0.5)},
          {"p90", percentile(values, 0.9)},
          {"p99", percentile(values, 0.99)},
          {"max", values.empty() ? 0 : values.back()}};
}

nlohmann::ordered_json Run::report() const {
  std::vector<double> first, between, whole;
  std::map<std::string, double> output_of_tenant;
  int64_t finished = 0, refused = 0, failed = 0, input = 0, output = 0, in_slo = 0, n = 0;
  for (const Record& r : records_) {
    refused += r.refused ? 1 : 0;
    failed += r.failed ? 1 : 0;
    output += static_cast<int64_t>(r.tokens.size());
    output_of_tenant[r.tenant] += static_cast<double>(r.tokens.size());
    if (!r.tokens.empty()) input += r.request.n_input;
    if (r.tenant == "flood") continue;  // the figures are those of the others
    ++n;
    if (r.tokens.empty()) continue;
    first.push_back(r.tokens.front() - r.request.arrival_s);
    in_slo += first.back() < options_.slo_s ? 1 : 0;
    for (size_t i = 1; i < r.tokens.size(); ++i) between.push_back(r.tokens[i] - r.tokens[i - 1]);
    if (r.finished >= 0 && !r.failed) {
      ++finished;
      whole.push_back(r.finished - r.request.arrival_s);
    }
  }
  std::vector<double> shares;
  for (const auto& [tenant, tokens] : output_of_tenant) {
    if (tenant != "flood") shares.push_back(tokens);
  }
  const EngineStats stats = engine_.stats();
  const WorkloadOptions& w = options_.workload;
  return {{"device", engine_.device()},
          {"variants", variants_.size()},
          {"arrivals", fmt::format("gaps ~ Gamma(1 / {0}^2, {0}^2 / {1}) s, for {2} s", w.cv,
                                   w.rate, w.duration_s)},
          {"popularity", popularity_formula(w.popularity)},
          {"input_tokens", fmt::format("uniform in [{}, {})", w.input_low, w.input_high)},
          {"output_tokens", fmt::format("uniform in [{}, {})", w.output_low, w.output_high)},
          {"seed", w.seed},
          {"flood", options_.flood},
          {"requests", n},
          {"finished", finished},
          {"refused", refused},
          {"failed", failed},
          {"elapsed_s", elapsed_s_},
          {"requests_per_s", static_cast<double>(finished) / elapsed_s_},
          {"input_tokens_per_s", static_cast<double>(input) / elapsed_s_},
          {"output_tokens_per_s", static_cast<double>(output) / elapsed_s_},
          {"time_to_first_token_s", distribution(first)},
          {"time_between_tokens_s", distribution(between)},
          {"latency_s", distribution(whole)},
          {"slo_s", options_.slo_s},
          {"slo_attainment", n == 0 ? 0 : static_cast<double>(in_slo) / static_cast<double>(n)},
          {"fairness_jain", jain_index(shares)},
          {"prefix_hit_rate", stats.prefix_queries == 0
                                  ? 0
                                  : static_cast<double>(stats.prefix_hits) /
                                        static_cast<double>(stats.prefix_queries)},
          {"steps", stats.steps},
          {"preemptions", stats.preemptions},
          {"loads", stats.loads},
          {"evictions", stats.evictions},
          {"base_bytes", stats.base_bytes},
          {"variant_bytes", stats.variant_bytes},
          {"kv_bytes", stats.kv_bytes}};
}

void print_table(const nlohmann::ordered_json& report) {
  for (const auto& [key, value] : report.items()) {
    if (value.is_object()) {
      print(fmt::format("{:24} mean {:.4f}  p50 {:.4f}  p90 {:.4f}  p99 {:.4f}  max {:.4f}\n", key,
                        value["mean"].get<double>(), value["p50"].get<double>(),
                        value["p90"].get<double>(), value["p99"].get<double>(),
                        value["max"].get<double>()));
    } else if (value.is_number_float()) {
      print(fmt::format("{:24} {:.4f}\n", key, value.get<double>()));
    } else {
      print(fmt::format("{:24} {}\n", key,
                        value.is_string() ? value.get<std::string>() : value.dump()));
    }
  }
}

void bench_trace(Options options) {
  try {
    popularity_of(options.workload.popularity, 1);
  } catch (const std::invalid_argument& error) {
    throw CLI::ValidationError(error.what());
  }
  const WorkloadOptions& w = options.workload;
  if (w.input_low >= w.input_high || w.output_low >= w.output_high)
    throw CLI::ValidationError("a range of lengths is empty");
  const auto bytes = [](double gib) { return static_cast<int64_t>(gib * 1024 * 1024 * 1024); };
  options.engine.base = options.base;
  options.engine.kv_cache_bytes = bytes(options.kv_gib);
  options.engine.variant_bytes = bytes(options.variant_gib);
  options.engine.max_waiting = options.engine.max_waiting_per_tenant =
      std::numeric_limits<int32_t>::max();
  Engine engine(options.engine);
  std::vector<std::string> variants;
  if (options.deltas.empty()) variants.emplace_back();
  const size_t n = options.deltas.empty()   ? 0
                   : options.n_variants > 0 ? static_cast<size_t>(options.n_variants)
                                            : options.deltas.size();
  for (size_t i = 0; i < n; ++i) {
    variants.push_back(fmt::format("variant{}", i));
    engine.load(variants.back(), options.deltas[i % options.deltas.size()]);
  }
  Run run(engine, options, variants);
  run.go();
  const nlohmann::ordered_json report = run.report();
  if (options.json) {
    print_json(report);
  } else {
    print_table(report);
  }
}

}  // namespace

void add_bench_trace(CLI::App& bench) {
  const auto o = std::make_shared<Options>();
  CLI::App* c = bench.add_subcommand(
      "trace", "Run made-up traffic through the engine: throughput, latencies, fairness");
  add_path(*c, "--base", o->base, "Base checkpoint")->required();
  add_path(*c, "--delta", o->deltas, "Archive or LoRA adapter; repeat for more. None: the base");
  const auto positive = number_in(1e-6, 1e9);
  c->add_option("--variants", o->n_variants, "Load the deltas as this many variants, in turn")
      ->type_name("N")
      ->check(integer_in(1, 100000));
  c->add_option("--rate", o->workload.rate, "Requests a second; default 1")->check(positive);
  c->add_option("--duration", o->workload.duration_s, "Seconds of arrivals; default 60")
      ->check(positive);
  c->add_option("--cv", o->workload.cv, "Of the gaps (Gamma); 1 = Poisson (default)")
      ->check(positive);
  c->add_option("--popularity", o->workload.popularity,
                "uniform (default), zipf:S, deltazip:A or power:A");
  c->add_option("--input-low", o->workload.input_low, "Prompt tokens, from; default 8")
      ->check(integer_in(1, 1 << 24));
  c->add_option("--input-high", o->workload.input_high, "to less than; default 512")
      ->check(integer_in(2, 1 << 24));
  c->add_option("--output-low", o->workload.output_low, "Answer tokens, from; default 8")
      ->check(integer_in(1, 1 << 24));
  c->add_option("--output-high", o->workload.output_high, "to less than; default 512")
      ->check(integer_in(2, 1 << 24));
  c->add_option("--shared-prefix", o->workload.shared_prefix,
                "First tokens that a tenant's prompts share; default 0")
      ->check(integer_in(0, 1 << 24));
  c->add_option("--tenants", o->workload.n_tenants, "Default 1")->check(integer_in(1, 10000));
  c->add_option(
       "--flood", o->flood,
       "Requests of one more tenant, all at the start; the figures are those of the others")
      ->check(integer_in(0, 1 << 24));
  c->add_option("--slo", o->slo_s, "Seconds to the first token; default 6")->check(positive);
  c->add_option("--seed", o->workload.seed, "Default 42");
  c->add_option("--kv-gib", o->kv_gib, "Memory for keys and values; default 1")->check(positive);
  c->add_option("--variant-gib", o->variant_gib, "Memory for variants; default 4")->check(positive);
  c->add_option("--max-sequences", o->engine.max_sequences, "Answers at once; default 32")
      ->check(integer_in(1, 65536));
  c->add_option("--step-tokens", o->engine.step_tokens, "Rows of a step; default 512")
      ->check(integer_in(1, 1 << 20));
  c->add_flag("--strict-shares", o->engine.strict_shares,
              "No tenant gets more seats than its share while others are active");
  add_threads_option(*c, o->engine.n_threads);
  add_json_option(*c, o->json);
  c->callback([o] { bench_trace(*o); });
}

}  // namespace deltacome::cli
