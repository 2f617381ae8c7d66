// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace deltacome::cli {

/// How requests arrive, whom they ask and how long they are: the laws that serving papers use.
struct WorkloadOptions {
  double rate = 1;  // requests a second, over all variants
  double duration_s = 60;
  double cv = 1;  // of the gaps, Gamma(1 / cv^2, cv^2 / rate); 1 = Poisson arrivals
  std::string popularity = "uniform";       // see popularity_of()
  int64_t input_low = 8, input_high = 512;  // tokens, uniform in [low, high), as S-LoRA's
  int64_t output_low = 8, output_high = 512;
  int64_t shared_prefix = 0;  // first tokens that all prompts of a tenant have in common
  int n_tenants = 1;
  uint64_t seed = 42;
};

struct TraceRequest {
  double arrival_s = 0;
  int variant = 0;  // index
  int tenant = 0;
  int64_t n_input = 0, n_output = 0;
};

/// Probability of each of n variants:
///   uniform   1 / n
///   zipf:S    p_i ~ (i + 1)^-S
///   deltazip:A  p_i ~ (i + 1)^A; what DeltaZip's generator calls zipf
///   power:A   p_i = ((i + 1) / n)^A - (i / n)^A; S-LoRA's, where A = 1 is uniform
/// Throws std::invalid_argument for another name.
std::vector<double> popularity_of(const std::string& law, int n);

/// The formula of a law, for reports.
std::string popularity_formula(const std::string& law);

/// The same requests for the same options, on every machine.
std::vector<TraceRequest> make_trace(const WorkloadOptions& options, int n_variants);

/// Value below which a share `p` of the sorted values lie (nearest rank); 0 if there are none.
double percentile(const std::vector<double>& sorted, double p);

/// Jain's index of fairness: 1 if all values are equal, 1 / n if one has everything.
double jain_index(const std::vector<double>& values);

}  // namespace deltacome::cli
