// SPDX-License-Identifier: Apache-2.0
#include "deltacome/bench.h"

#include <fmt/format.h>

#include <memory>

#include "cli.h"
#include "progress.h"
#include "text.h"

namespace deltacome::cli {
namespace {

struct Options {
  BenchOptions bench;
  std::optional<std::string> base;
  bool json = false;
};

nlohmann::ordered_json to_json(const BenchReport& r) {
  nlohmann::ordered_json entries = nlohmann::ordered_json::array();
  for (const BenchEntry& e : r.entries) {
    entries.push_back({{"name", e.name},
                       {"ms", e.ms},
                       {"tokens_per_s", e.tokens_per_s},
                       {"bytes", e.bytes},
                       {"of_roof", measured(e.of_roof)},
                       {"ratio", e.ratio}});
  }
  return {{"device", r.device},
          {"base", r.base},
          {"delta", r.delta},
          {"read_gb_per_s", r.read_gb_per_s},
          {"gemm_gflop_per_s", r.gemm_gflop_per_s},
          {"weight_bytes", r.weight_bytes},
          {"delta_bytes", r.delta_bytes},
          {"delta_resident_bytes", r.delta_resident_bytes},
          {"entries", entries}};
}

std::string to_text(const BenchReport& r) {
  Table table({"", "ms", "tokens/s", "read", "of roof", "ratio"});
  for (const BenchEntry& e : r.entries) {
    table.add({e.name, fmt::format("{:.2f}", e.ms), fmt::format("{:.1f}", e.tokens_per_s),
               format_bytes(static_cast<int64_t>(e.bytes)), format_figure(e.of_roof, "{:.2f}"),
               fmt::format("{:.3f}", e.ratio)});
  }
  return fmt::format("{}; base {} ({}); delta {} ({}, {} in memory)\n", r.device, r.base,
                     format_bytes(r.weight_bytes), r.delta, format_bytes(r.delta_bytes),
                     format_bytes(r.delta_resident_bytes)) +
         fmt::format("roofs: {:.1f} GB/s read, {:.0f} GFLOP/s float32 GEMM\n", r.read_gb_per_s,
                     r.gemm_gflop_per_s) +
         table.text();
}

using Measure = BenchReport (*)(const BenchOptions&, const std::function<void(int64_t, int64_t)>&);

void run(const Options& options, Measure measure) {
  BenchOptions request = options.bench;
  if (options.base) request.base = *options.base;
  Progress line;
  const BenchReport report = measure(
      request, [&](int64_t done, int64_t total) { line.update(done, total, done, "rounds"); });
  line.finish();
  if (options.json) {
    print_json(to_json(report));
  } else {
    print(to_text(report));
  }
}

CLI::App* add_measurement(CLI::App& bench, const char* name, const char* help, Measure measure,
                          const std::shared_ptr<Options>& o) {
  constexpr int64_t kMany = 1 << 20;
  CLI::App* c = bench.add_subcommand(name, help);
  c->add_option("--shape", o->bench.shape, "Shape of a random base: 1b (default) or 7b")
      ->type_name("NAME");
  c->add_option("--layers", o->bench.n_layers, "Layers of the random base; 0 = all of its shape")
      ->type_name("N")
      ->check(integer_in(0, kMany));
  add_path(*c, "--base", o->base, "Model directory to measure instead of a random base");
  add_base_dtype_option(*c, o->bench.base_dtype);
  add_kv_dtype_option(*c, o->bench.kv_dtype);
  c->add_option("--delta", o->bench.delta,
                "Random deltas: come (default), auto, vector, dense or lora")
      ->type_name("KIND");
  c->add_option("--bits", o->bench.bits, "Bits per weight of the deltas; default 1")
      ->type_name("X")
      ->check(number_in(0.1, 8));
  c->add_option("--repeats", o->bench.repeats, "Rounds, of which the fastest counts; default 10")
      ->type_name("N")
      ->check(integer_in(1, kMany));
  add_threads_option(*c, o->bench.n_threads);
  add_json_option(*c, o->json);
  c->callback([o, measure] { run(*o, measure); });
  return c;
}

}  // namespace

void add_bench(CLI::App& program) {
  constexpr int64_t kMany = 1 << 20;
  const auto o = std::make_shared<Options>();
  CLI::App* bench =
      program.add_subcommand("bench", "Measure speed against what the machine can do");
  bench->require_subcommand(1);
  CLI::App* decode = add_measurement(*bench, "decode", "One token a sequence", bench_decode, o);
  decode->add_option("--variants", o->bench.n_variants, "Distinct variants of a step; default 8")
      ->type_name("N")
      ->check(integer_in(1, kMany));
  decode->add_option("--batch", o->bench.batch, "Sequences of the other steps; default 8")
      ->type_name("N")
      ->check(integer_in(1, kMany));
  decode->add_option("--context", o->bench.context, "Tokens in the cache; default 128")
      ->type_name("N")
      ->check(integer_in(0, kMany));
  CLI::App* prefill =
      add_measurement(*bench, "prefill", "The prompt of one sequence", bench_prefill, o);
  prefill->add_option("--prompt", o->bench.prompt, "Tokens; default 512")
      ->type_name("N")
      ->check(integer_in(1, kMany));
  add_bench_trace(*bench);
}

}  // namespace deltacome::cli
