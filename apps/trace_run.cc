// SPDX-License-Identifier: Apache-2.0
#include "trace_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <thread>

#include "bench_options.h"

namespace deltacome::cli {

// How often a run looks whether it is too late.
constexpr std::chrono::milliseconds kLook{250};

TraceRun::TraceRun(TraceServer& server, const TraceOptions& options,
                   std::vector<std::string> variants)
    : server_(server), options_(options), variants_(std::move(variants)) {
  for (const TraceRequest& r : make_trace(options.workload, static_cast<int>(variants_.size())))
    records_.push_back({.request = r});
}

double TraceRun::since_start() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

void TraceRun::go() {
  start_ = Clock::now();
  for (int64_t i = 0; i < options_.flood; ++i) submit_neighbour(false);
  for (int64_t i = 0; i < options_.neighbour; ++i) submit_neighbour(true);
  if (!options_.reloaded.empty()) load_again();
  for (size_t i = 0; i < records_.size(); ++i) {
    std::this_thread::sleep_until(
        start_ + std::chrono::duration_cast<Clock::duration>(
                     std::chrono::duration<double>(records_[i].request.arrival_s)));
    if (options_.ends_if_late && is_late()) break;
    submit(i);
  }
  for (bool all_ended = false; !all_ended;) {
    if (options_.ends_if_late && is_late()) server_.cancel_all();
    std::unique_lock lock(mutex_);
    all_ended = ended_.wait_for(lock, kLook, [this] { return n_open_ == 0; });
    loading_ends_ = all_ended;
  }
  elapsed_s_ = since_start();
  server_.cancel_all();
  if (load_error_) throw Error(*load_error_);
}

/// What has no token yet counts from its arrival.
bool TraceRun::is_late() {
  const double now = since_start();
  const std::lock_guard lock(mutex_);
  const auto late = std::ranges::count_if(records_, [&](const Record& r) {
    const double first = r.tokens.empty() ? now : r.tokens.front();
    return first - r.request.arrival_s >= options_.slo_s;
  });
  ended_early_ = 10 * late > static_cast<int64_t>(records_.size());
  return ended_early_;
}

bool TraceRun::holds() const {
  std::vector<double> first;
  for (const Record& r : records_) {
    if (r.finished < 0 || r.failed || r.tokens.empty()) return false;
    first.push_back(r.tokens.front() - r.request.arrival_s);
  }
  std::ranges::sort(first);
  return !ended_early_ && percentile(first, 0.9) < options_.slo_s;
}

/// One load after another takes the place of the same name, until the run ends.
void TraceRun::load_again() {
  const double start = since_start();
  const auto done = [this, start](const Error* error) {
    {
      const std::lock_guard lock(mutex_);
      if (loading_ends_) return;
      if (error != nullptr) {
        load_error_ = *error;
        return;
      }
      load_times_.push_back(since_start() - start);
    }
    load_again();
  };
  try {
    server_.start_load("reloaded", options_.reloaded, done);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOverloaded) throw;  // the run is at its end
  }
}

EngineRequest TraceRun::engine_request(const TraceRequest& r, const std::string& tenant,
                                       uint64_t content) const {
  EngineRequest request;
  request.variant = variants_[static_cast<size_t>(r.variant)];
  request.tenant = tenant;
  request.max_tokens = r.n_output;
  request.ignore_eos = true;
  request.sampling.temperature = 0;
  // Ids that every vocabulary has; a tenant's prompts share as much as was asked for.
  std::mt19937_64 shared(static_cast<uint64_t>(r.tenant)), own(content);
  for (int64_t t = 0; t < r.n_input; ++t) {
    std::mt19937_64& rng = t < options_.workload.shared_prefix ? shared : own;
    request.prompt.push_back(random_token(rng));
  }
  return request;
}

void TraceRun::submit(size_t i) {
  Record& record = records_[i];
  {
    const std::lock_guard lock(mutex_);
    ++n_open_;
  }
  try {
    server_.submit(
        engine_request(record.request, fmt::format("tenant{}", record.request.tenant), i + 1000),
        [this, i](const TokenEvent& event) {
          const double now = since_start();
          const std::lock_guard lock(mutex_);
          if (event.token) records_[i].tokens.push_back(now);
          if (event.error) records_[i].failed = true;
          if (event.finish == FinishReason::kNone) return;
          records_[i].finished = now;
          if (--n_open_ == 0) ended_.notify_all();
        });
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOverloaded) throw;
    const std::lock_guard lock(mutex_);
    record.refused = true;
    --n_open_;
  }
}

void TraceRun::submit_neighbour(bool again) {
  const WorkloadOptions& w = options_.workload;
  TraceRequest r;
  uint64_t content = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto below = [&](int64_t n) {
      return static_cast<int64_t>(neighbour_rng_() % static_cast<uint64_t>(n));
    };
    r.variant = static_cast<int>(below(static_cast<int64_t>(variants_.size())));
    r.tenant = -1;
    r.n_input = w.input_low + below(w.input_high - w.input_low);
    r.n_output = w.output_low + below(w.output_high - w.output_low);
    content = neighbour_rng_();
  }
  try {
    server_.submit(engine_request(r, "neighbour", content), [this, again](const TokenEvent& event) {
      if (event.token) {
        const std::lock_guard lock(mutex_);
        ++neighbour_tokens_;
      }
      const bool ended = event.finish != FinishReason::kNone;
      if (ended && again && since_start() < options_.workload.duration_s) submit_neighbour(true);
    });
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOverloaded) throw;  // the run is at its end
  }
}

nlohmann::ordered_json TraceRun::report() const {
  std::vector<double> first, between, whole;
  std::map<int, double> output_of_tenant;
  int64_t finished = 0, refused = 0, failed = 0, input = 0, output = 0, in_slo = 0, n = 0;
  for (const Record& r : records_) {
    refused += r.refused ? 1 : 0;
    failed += r.failed ? 1 : 0;
    output += static_cast<int64_t>(r.tokens.size());
    output_of_tenant[r.request.tenant] += static_cast<double>(r.tokens.size());
    ++n;
    if (r.tokens.empty()) continue;
    input += r.request.n_input;
    first.push_back(r.tokens.front() - r.request.arrival_s);
    in_slo += first.back() < options_.slo_s ? 1 : 0;
    for (size_t i = 1; i < r.tokens.size(); ++i) between.push_back(r.tokens[i] - r.tokens[i - 1]);
    if (r.finished >= 0 && !r.failed) {
      ++finished;
      whole.push_back(r.finished - r.request.arrival_s);
    }
  }
  std::vector<double> shares;
  for (const auto& [_, tokens] : output_of_tenant) shares.push_back(tokens);
  const EngineStats stats = server_.stats();
  const WorkloadOptions& w = options_.workload;
  return {{"device", server_.device()},
          {"variants", variants_.size()},
          {"arrivals", fmt::format("gaps ~ Gamma(1 / {0}^2, {0}^2 / {1}) s, for {2} s", w.cv,
                                   w.rate, w.duration_s)},
          {"popularity", popularity_formula(w.popularity)},
          {"input_tokens", fmt::format("uniform in [{}, {})", w.input_low, w.input_high)},
          {"output_tokens", fmt::format("uniform in [{}, {})", w.output_low, w.output_high)},
          {"seed", w.seed},
          {"flood", options_.flood},
          {"neighbour", options_.neighbour},
          {"neighbour_output_tokens", neighbour_tokens_},
          {"requests", n},
          {"finished", finished},
          {"refused", refused},
          {"failed", failed},
          {"ended_early", ended_early_},
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
          {"load_s", distribution(options_.reloaded.empty() ? server_.load_times() : load_times_)},
          {"evictions", stats.evictions},
          {"base_bytes", stats.base_bytes},
          {"variant_bytes", stats.variant_bytes},
          {"kv_bytes", stats.kv_bytes}};
}

}  // namespace deltacome::cli
