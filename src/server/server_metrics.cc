// SPDX-License-Identifier: Apache-2.0
#include "server/server_metrics.h"

#include <fmt/format.h>

#include "server/variant_names.h"

#include <algorithm>
#include <ctime>

namespace deltacome::server {
namespace {

std::vector<double> first_token_bounds() {
  return {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
          1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
}
std::vector<double> between_token_bounds() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
          0.4,   0.5,    0.75,  1,    2.5,   5,    7.5,   10,  20,   40,  80};
}
std::vector<double> request_bounds() {
  return {0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1,   1.5, 2,   2.5, 5,    10,
          15,   20,   30,  40,  50,  60,  120, 240, 480, 960, 1920, 7680};
}
/// 1, 2, 5, 10, ... as vLLM's.
std::vector<double> count_bounds(double last) {
  std::vector<double> out;
  for (double decade = 1; decade <= last; decade *= 10)
    for (const double digit : {1., 2., 5.})
      if (digit * decade <= last) out.push_back(digit * decade);
  return out;
}

/// Prints families of one sample each.
struct Writer {
  MetricsText& out;
  Labels labels;
  void gauge(std::string_view name, double value, std::string_view help) const {
    out.family(name, "gauge", help);
    out.sample(labels, value);
  }
  void counter(std::string_view name, double value, std::string_view help) const {
    out.family(name, "counter", help);
    out.sample(labels, value);
  }
};

void print_engine(const Writer& w, const EngineStats& s) {
  const auto real = [](int64_t n) { return static_cast<double>(n); };
  const double usage = s.kv_blocks > 0 ? real(s.kv_blocks_in_use) / real(s.kv_blocks) : 0;
  w.gauge("vllm:num_requests_running", real(s.running), "Sequences in the batch");
  w.gauge("vllm:num_requests_waiting", real(s.waiting), "Sequences that wait for a seat");
  w.gauge("vllm:kv_cache_usage_perc", usage, "Share of the KV cache in use, 0 to 1");
  w.gauge("vllm:gpu_cache_usage_perc", usage, "The same, under its old name");
  w.counter("vllm:prefix_cache_queries_total", real(s.prefix_queries), "Prompt tokens looked up");
  w.counter("vllm:prefix_cache_hits_total", real(s.prefix_hits), "Prompt tokens found");
  w.counter("vllm:num_preemptions_total", real(s.preemptions), "Preemptions");
  w.counter("vllm:prompt_tokens_total", real(s.prompt_tokens), "Prompt tokens computed");
  w.counter("vllm:generation_tokens_total", real(s.output_tokens), "Tokens generated");
  w.gauge("deltacome:engine_requests", real(s.requests), "Requests accepted and not finished");
  w.counter("deltacome:engine_steps_total", real(s.steps), "Steps of the engine");
  w.gauge("deltacome:base_bytes", real(s.base_bytes), "The base's weights in memory");
  w.gauge("deltacome:variants_bytes", real(s.variant_bytes), "All variants in memory");
  w.gauge("deltacome:kv_cache_bytes", real(s.kv_bytes), "The KV cache");
  w.counter("deltacome:variant_loads_total", real(s.loads), "Loads that succeeded");
  w.counter("deltacome:variant_load_failures_total", real(s.failed_loads), "Loads that failed");
  w.counter("deltacome:variant_evictions_total", real(s.evictions),
            "Variants thrown out of memory for others");
  w.counter("deltacome:requests_cancelled_total", real(s.cancelled), "Answers cancelled");
  w.counter("deltacome:requests_expired_total", real(s.expired), "Answers ended by a deadline");
  w.counter("deltacome:requests_failed_total", real(s.failed), "Answers ended by an error");
}

void print_steps(MetricsText& out, const Labels& model, const EngineStats& s) {
  const std::vector<double> bounds(kStepTokenBounds.begin(), kStepTokenBounds.end());
  const std::vector<uint64_t> counts(s.steps_by_tokens.begin(), s.steps_by_tokens.end());
  out.histogram("vllm:iteration_tokens_total", "Tokens of prompts and answers in a step", model,
                bounds, counts, static_cast<double>(s.step_tokens));
}

void print_cache(MetricsText& out, const EngineStats& s) {
  out.family("vllm:cache_config_info", "gauge", "The KV cache's blocks");
  const std::string n_blocks = std::to_string(s.kv_blocks);
  out.sample({{"block_size", std::to_string(s.kv_block_tokens)},
              {"num_gpu_blocks", n_blocks},
              {"num_cpu_blocks", "0"},
              {"engine", "0"}},
             1);
}

void print_variants(MetricsText& out, const Labels& model,
                    const std::vector<VariantStatus>& variants) {
  const auto labelled = [&](const VariantStatus& v) {
    Labels labels = model;
    labels.emplace_back("variant", v.name);
    return labels;
  };
  out.family("deltacome:variant_bytes", "gauge", "Memory of a variant");
  for (const VariantStatus& v : variants) out.sample(labelled(v), static_cast<double>(v.bytes));
  out.family("deltacome:variant_requests_running", "gauge", "Accepted requests of a variant");
  for (const VariantStatus& v : variants) out.sample(labelled(v), static_cast<double>(v.requests));
  out.family("deltacome:variant_state", "gauge", "1 for the state that a variant is in");
  for (const VariantStatus& v : variants) {
    Labels labels = labelled(v);
    labels.emplace_back("state", state_name(v.state));
    out.sample(labels, 1);
  }
  // vLLM's form: the names are in labels.
  std::string running, waiting;
  for (const VariantStatus& v : variants) {
    if (v.requests == 0) continue;
    std::string& list = v.state == VariantState::kReady ? running : waiting;
    list += (list.empty() ? "" : ",") + v.name;
  }
  out.family("vllm:lora_requests_info", "gauge", "Variants with running and waiting requests");
  out.sample({{"max_lora", fmt::format("{}", variants.size())},
              {"running_lora_adapters", running},
              {"waiting_lora_adapters", waiting}},
             static_cast<double>(std::time(nullptr)));  // schedulers take the latest one
}

}  // namespace

ServerMetrics::ServerMetrics()
    : time_to_first_token(first_token_bounds()),
      inter_token(between_token_bounds()),
      per_output_token(between_token_bounds()),
      e2e(request_bounds()),
      queue(request_bounds()),
      prefill(request_bounds()),
      decode(request_bounds()),
      inference(request_bounds()),
      prompt_tokens(count_bounds(200'000)),
      generation_tokens(count_bounds(200'000)),
      max_generation_tokens(count_bounds(200'000)),
      params_n({1, 2, 5, 10, 20}),
      params_max_tokens(count_bounds(200'000)),
      load_seconds(request_bounds()) {}

void ServerMetrics::count_tokens(const std::string& variant, const std::string& tenant,
                                 int64_t prompt, int64_t output) {
  const auto count = [&](CounterFamily& family, const char* label, const std::string& value) {
    family.add({{label, value}, {"kind", "prompt"}}, static_cast<double>(prompt));
    family.add({{label, value}, {"kind", "generation"}}, static_cast<double>(output));
  };
  count(variant_tokens, "variant", variant);
  if (!tenant.empty()) count(tenant_tokens, "tenant", tenant);
}

std::string ServerMetrics::print(const ServedEngine& engine, const std::string& base_name,
                                 const Gauges& gauges) const {
  MetricsText out;
  const Labels model = {{"model_name", base_name}, {"engine", "0"}};
  const Writer writer{out, model};
  const EngineStats stats = engine.stats();
  print_engine(writer, stats);
  print_cache(out, stats);
  print_steps(out, model, stats);
  const auto histogram = [&](std::string_view name, const Histogram& values,
                             std::string_view help) { out.histogram(name, help, model, values); };
  histogram("vllm:time_to_first_token_seconds", time_to_first_token, "Arrival to the first token");
  histogram("vllm:inter_token_latency_seconds", inter_token, "Between two tokens of an answer");
  histogram("vllm:time_per_output_token_seconds", per_output_token,
            "Mean time between the tokens of an answer");
  histogram("vllm:e2e_request_latency_seconds", e2e, "Arrival to the end of the last answer");
  histogram("vllm:request_queue_time_seconds", queue, "Until an answer's first step");
  histogram("vllm:request_prefill_time_seconds", prefill, "First step to first token");
  histogram("vllm:request_inference_time_seconds", inference, "First step to the end");
  histogram("vllm:request_decode_time_seconds", decode, "First to last token of an answer");
  histogram("vllm:request_prompt_tokens", prompt_tokens, "Tokens of a prompt");
  histogram("vllm:request_generation_tokens", generation_tokens, "Tokens of an answer");
  histogram("vllm:request_max_num_generation_tokens", max_generation_tokens,
            "Tokens of a request's longest answer");
  histogram("vllm:request_params_n", params_n, "n of a request");
  histogram("vllm:request_params_max_tokens", params_max_tokens, "max_tokens of a request");
  histogram("deltacome:variant_load_seconds", load_seconds, "Loads asked for over HTTP");
  success.print(out, "vllm:request_success_total", "Answers by how they ended");
  http_requests.print(out, "http_requests_total", "HTTP requests");
  variant_requests.print(out, "deltacome:variant_requests_total", "Requests of a variant");
  variant_tokens.print(out, "deltacome:variant_tokens_total", "Tokens of a variant");
  tenant_tokens.print(out, "deltacome:tenant_tokens_total", "Tokens of a tenant's requests");
  refused.print(out, "deltacome:requests_refused_total", "Requests refused for lack of room");
  print_variants(out, model, engine.variants());
  const auto real = [](int64_t n) { return static_cast<double>(n); };
  writer.gauge("deltacome:connections", real(gauges.connections), "Open connections");
  writer.gauge("deltacome:open_answers", real(gauges.open_answers), "HTTP requests being answered");
  writer.counter("deltacome:slow_readers_total", real(gauges.slow_readers),
                 "Streams cut off because their reader fell behind");
  writer.gauge("deltacome:draining", gauges.draining ? 1 : 0, "1 once the server is stopping");
  return out.take();
}

}  // namespace deltacome::server
