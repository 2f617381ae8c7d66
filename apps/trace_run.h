// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cli.h"
#include "trace_server.h"
#include "trace_workload.h"

namespace deltacome::cli {

struct TraceOptions {
  WorkloadOptions workload;
  int64_t flood = 0;      // requests of a neighbour, all at the start; or
  int64_t neighbour = 0;  // requests that it keeps going at any time
  double slo_s = 6;       // to the first token
  std::string reloaded;   // an archive that is loaded over and over meanwhile; empty = none
  /// Ends as soon as it is clear that fewer than 90 % of the requests have their first token in
  /// `slo_s`: a rate that is too high would take long.
  bool ends_if_late = false;
};

/// One run of a workload through a server, which outlives it. When the workload's requests have
/// been answered, what is left of the neighbour's is cancelled.
class TraceRun {
 public:
  /// `variants`: the names that the workload's indices stand for.
  TraceRun(TraceServer& server, const TraceOptions& options, std::vector<std::string> variants);
  /// Stops the server, as its events name the run.
  ~TraceRun() { server_.stop(); }
  TraceRun(const TraceRun&) = delete;
  TraceRun& operator=(const TraceRun&) = delete;
  void go();
  /// Whether every request was answered and 90 % had their first token in time.
  bool holds() const;
  /// Figures of all requests but the neighbour's; times in seconds.
  nlohmann::ordered_json report() const;

 private:
  using Clock = std::chrono::steady_clock;

  /// What became of one request; times in seconds since the start of the run.
  struct Record {
    TraceRequest request;
    std::vector<double> tokens = {};  // when each came
    double finished = -1;
    bool refused = false, failed = false;
  };

  double since_start() const;
  bool is_late();
  EngineRequest engine_request(const TraceRequest& request, const std::string& tenant,
                               uint64_t content) const;
  void submit(size_t i);
  void load_again();
  /// The next request of the neighbour; with `again` another one follows when it has ended.
  void submit_neighbour(bool again);

  TraceServer& server_;
  const TraceOptions options_;
  const std::vector<std::string> variants_;
  std::mutex mutex_;
  std::condition_variable ended_;
  int64_t n_open_ = 0;  // of records_
  std::vector<Record> records_;
  std::mt19937_64 neighbour_rng_{7};
  int64_t neighbour_tokens_ = 0;
  bool loading_ends_ = false;
  bool ended_early_ = false;
  std::optional<Error> load_error_;
  std::vector<double> load_times_;  // of the variant that is loaded over and over
  Clock::time_point start_;
  double elapsed_s_ = 0;
};

}  // namespace deltacome::cli
