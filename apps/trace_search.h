// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "trace_run.h"

namespace deltacome::cli {

struct SearchOptions {
  int runs = 0;          // at most
  double within = 1.15;  // ratio of the rates between which the limit lies
};

/// The highest rate of a workload that holds (TraceRun::holds()): from the given one on it is
/// doubled or halved until the limit lies between two rates, then the interval is cut at its
/// geometric mean. Stops the server. Each run's figures, then "highest_rate" (0: none held) and
/// "next_above" (null: all held).
nlohmann::ordered_json highest_rate(TraceServer& server, TraceOptions options,
                                    const std::vector<std::string>& variants,
                                    const SearchOptions& search);
void print_search(const nlohmann::ordered_json& report, bool json);

}  // namespace deltacome::cli
