// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "server/metrics.h"
#include "server/served_engine.h"

namespace deltacome::server {

/// What the server measures itself; the rest of /metrics is asked of the engine when it is printed.
/// Thread-safe.
class ServerMetrics {
 public:
  ServerMetrics();

  Histogram time_to_first_token, inter_token, per_output_token, e2e, queue, prefill, decode,
      inference, prompt_tokens, generation_tokens, max_generation_tokens, params_n,
      params_max_tokens, load_seconds;
  CounterFamily http_requests;     // path (of the route), method, status
  CounterFamily success;           // finished_reason
  CounterFamily variant_requests;  // variant
  CounterFamily variant_tokens;    // variant, kind
  CounterFamily tenant_tokens;     // tenant, kind
  CounterFamily refused;           // reason: rate, concurrency, queue, draining

  /// Of a request that has ended; `tenant` is empty without keys.
  void count_tokens(const std::string& variant, const std::string& tenant, int64_t prompt,
                    int64_t output);

  struct Gauges {
    int64_t connections = 0, slow_readers = 0, open_answers = 0;
    bool draining = false;
  };
  /// The whole of /metrics. `base_name` is the label model_name.
  std::string print(const ServedEngine& engine, const std::string& base_name,
                    const Gauges& gauges) const;
};

}  // namespace deltacome::server
