// SPDX-License-Identifier: Apache-2.0
#include "trace_search.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <memory>

namespace deltacome::cli {
namespace {

std::string line_of(const nlohmann::ordered_json& r) {
  const auto& first = r["time_to_first_token_s"];
  const auto& between = r["time_between_tokens_s"];
  return fmt::format(
      "{:8.4f}/s  {}  {:4} requests  first token p50 {:7.2f} p90 {:7.2f} s  between tokens p50 "
      "{:6.1f} "
      "p99 {:7.1f} ms  {:6.1f} tokens/s  {} loads, {:.2f} s{}",
      r["rate"].get<double>(), r["holds"].get<bool>() ? "holds" : "fails",
      r["requests"].get<int64_t>(), first["p50"].get<double>(), first["p90"].get<double>(),
      1e3 * between["p50"].get<double>(), 1e3 * between["p99"].get<double>(),
      r["output_tokens_per_s"].get<double>(), r["loads"].get<int64_t>(),
      r["load_s"]["p50"].get<double>(),
      r["ended_early"].get<bool>()
          ? fmt::format("  ended after {:.0f} s", r["elapsed_s"].get<double>())
          : "");
}

}  // namespace

nlohmann::ordered_json highest_rate(TraceServer& server, TraceOptions options,
                                    const std::vector<std::string>& variants,
                                    const SearchOptions& search) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  options.ends_if_late = true;
  std::vector<std::unique_ptr<TraceRun>> runs;  // until the server has stopped: events name them
  nlohmann::ordered_json reports = nlohmann::ordered_json::array();
  double low = 0, high = kNone;
  for (int i = 0; i < search.runs && (low == 0 || high / low > search.within); ++i) {
    double& rate = options.workload.rate;
    TraceRun& run = *runs.emplace_back(std::make_unique<TraceRun>(server, options, variants));
    run.go();
    (run.holds() ? low : high) = rate;
    nlohmann::ordered_json report = run.report();
    report["rate"] = rate;
    report["holds"] = run.holds();
    note(line_of(report));
    reports.push_back(std::move(report));
    rate = high == kNone ? 2 * low : low == 0 ? high / 2 : std::sqrt(low * high);
  }
  server.stop();
  return {{"runs", std::move(reports)},
          {"highest_rate", low},
          {"next_above", measured(high == kNone ? -1 : high)}};
}

void print_search(const nlohmann::ordered_json& report, bool json) {
  if (json) return print_json(report);
  if (!report["runs"].empty()) {
    const auto& last = report["runs"].back();
    print(fmt::format("{}; {}; memory: base {}, variants {}, keys and values {} bytes\n",
                      last["device"].get<std::string>(), last["popularity"].get<std::string>(),
                      last["base_bytes"].get<int64_t>(), last["variant_bytes"].get<int64_t>(),
                      last["kv_bytes"].get<int64_t>()));
  }
  print(fmt::format("highest sustained rate: {:.4f}/s, next above {}\n",
                    report["highest_rate"].get<double>(),
                    report["next_above"].is_null()
                        ? "none tried"
                        : fmt::format("{:.4f}/s", report["next_above"].get<double>())));
}

}  // namespace deltacome::cli
