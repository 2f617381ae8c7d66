// SPDX-License-Identifier: Apache-2.0
#include "bench_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "trace_workload.h"

namespace deltacome::cli {

EngineRequest BenchEngineOptions::request(const std::string& variant, uint64_t content,
                                          int64_t max_tokens) const {
  EngineRequest out;
  out.variant = variant;
  out.max_tokens = max_tokens;
  out.ignore_eos = true;
  out.sampling.temperature = 0;
  std::mt19937_64 rng(content);
  for (int64_t i = 0; i < prompt; ++i) out.prompt.push_back(random_token(rng));
  return out;
}

void add_bench_engine_options(CLI::App& c, BenchEngineOptions& o) {
  const auto positive = number_in(1e-6, 1e9);
  add_path(c, "--base", o.engine.base, "Base checkpoint")->required();
  add_path(c, "--delta", o.deltas, "Archive or LoRA adapter; repeat for more")->required();
  c.add_option("--prompt", o.prompt, "Tokens of a prompt; default 32")
      ->type_name("N")
      ->check(integer_in(1, 1 << 24));
  c.add_option("--kv-gib", o.kv_gib, "Memory for keys and values; default 1")->check(positive);
  c.add_option("--variant-gib", o.variant_gib, "Memory for variants; default 4")->check(positive);
  c.add_option("--max-sequences", o.engine.max_sequences, "Answers at once; default 32")
      ->check(integer_in(1, 65536));
  c.add_option("--step-tokens", o.engine.step_tokens, "Rows of a step; default 512")
      ->check(integer_in(1, 1 << 20));
  add_device_option(c, o.engine.device);
  add_device_memory_option(c, o.engine.device_memory_bytes);
  add_threads_option(c, o.engine.n_threads);
  add_base_dtype_option(c, o.engine.base_dtype);
  add_kv_dtype_option(c, o.engine.kv_dtype);
  add_json_option(c, o.json);
}

nlohmann::ordered_json distribution(std::vector<double> values) {
  std::ranges::sort(values);
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {{"mean", values.empty() ? 0 : sum / static_cast<double>(values.size())},
          {"p50", percentile(values, 0.5)},
          {"p90", percentile(values, 0.9)},
          {"p99", percentile(values, 0.99)},
          {"max", values.empty() ? 0 : values.back()}};
}

void print_report(const nlohmann::ordered_json& report, bool json) {
  if (json) return print_json(report);
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

}  // namespace deltacome::cli
