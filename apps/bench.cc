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
         fmt::format("roofs: {:.1f} GB/s read, {:.0f} GFLOP/s {} GEMM\n", r.read_gb_per_s,
                     r.gemm_gflop_per_s, r.device.starts_with("cuda") ? "bf16" : "float32") +
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

constexpr int64_t kMany = 1 << 20;

/// What is made at random.
CLI::App* add_random(CLI::App& bench, const char* name, const char* help,
                     const std::shared_ptr<Options>& o) {
  CLI::App* c = bench.add_subcommand(name, help);
  c->add_option("--shape", o->bench.shape, "Shape of a random base: 1b (default) or 7b")
      ->type_name("NAME");
  c->add_option("--layers", o->bench.n_layers, "Layers of the random base; 0 = all of its shape")
      ->type_name("N")
      ->check(integer_in(0, kMany));
  c->add_option("--vocab", o->bench.vocab_size, "Its vocabulary; 0 = that of its shape")
      ->type_name("N")
      ->check(integer_in(0, kMany));
  c->add_option("--delta", o->bench.delta,
                "Random deltas: come (default), auto, vector, dense or lora")
      ->type_name("KIND");
  c->add_option("--bits", o->bench.bits, "Bits per weight of the deltas; default 1")
      ->type_name("X")
      ->check(number_in(0.1, 8));
  return c;
}

CLI::App* add_measurement(CLI::App& bench, const char* name, const char* help, Measure measure,
                          const std::shared_ptr<Options>& o) {
  CLI::App* c = add_random(bench, name, help, o);
  add_path(*c, "--base", o->base, "Model directory to measure instead of a random base");
  add_base_dtype_option(*c, o->bench.base_dtype);
  add_kv_dtype_option(*c, o->bench.kv_dtype);
  c->add_option("--repeats", o->bench.repeats, "Rounds, of which the fastest counts; default 10")
      ->type_name("N")
      ->check(integer_in(1, kMany));
  add_device_option(*c, o->bench.device);
  add_device_memory_option(*c, o->bench.device_memory_bytes);
  add_threads_option(*c, o->bench.n_threads);
  add_json_option(*c, o->json);
  c->callback([o, measure] { run(*o, measure); });
  return c;
}

void add_make(CLI::App& bench) {
  const auto o = std::make_shared<Options>();
  const auto out = std::make_shared<std::string>();
  const auto n_models = std::make_shared<int64_t>(0);
  o->bench.n_variants = 1;
  CLI::App* c = add_random(
      bench, "make", "Write a random base, deltas and whole models as files, to measure with", o);
  add_path(*c, "OUT", *out, "Directory that gets base, delta0, ..., model0, ...")->required();
  c->add_option("--variants", o->bench.n_variants, "Archives; default 1")
      ->type_name("N")
      ->check(integer_in(0, kMany));
  c->add_option("--models", *n_models, "Whole models besides the base; default 0")
      ->type_name("N")
      ->check(integer_in(0, kMany));
  c->add_flag("--vocabulary", o->bench.vocabulary,
              "Deltas have codes of 4 bits for embedding and head too");
  add_threads_option(*c, o->bench.n_threads);
  c->callback([o, out, n_models] { write_synthetic(o->bench, *n_models, *out); });
}

}  // namespace

void add_bench(CLI::App& program) {
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
  decode
      ->add_option("--mixes", o->bench.mixes,
                   "Also steps of so many of the variants, one sequence each: N,N,...")
      ->type_name("N")
      ->delimiter(',');
  decode->add_flag("--whole-models", o->bench.whole_models,
                   "Also as many whole models as variants, each with its own step");
  CLI::App* prefill =
      add_measurement(*bench, "prefill", "The prompt of one sequence", bench_prefill, o);
  prefill->add_option("--prompt", o->bench.prompt, "Tokens; default 512")
      ->type_name("N")
      ->check(integer_in(1, kMany));
  add_make(*bench);
  add_bench_memory(*bench);
  add_bench_loads(*bench);
  add_bench_trace(*bench);
}

}  // namespace deltacome::cli
