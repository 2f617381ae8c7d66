// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/sample.h"

#include <cmath>
#include <vector>

#include "backend/sampling.h"

namespace deltacome::cpu {

int32_t sample_row(std::span<const float> logits, const SampleParams& params) {
  logits = logits.first(static_cast<size_t>(params.vocab_size));
  const int32_t greedy = first_largest(logits);
  // All probability on one token, or none anywhere (all -inf or NaN).
  if (params.temperature <= 0 || !std::isfinite(logits[static_cast<size_t>(greedy)])) return greedy;
  std::vector<Candidate> candidates =
      candidates_of(logits, static_cast<double>(params.temperature), 0, params.top_k);
  keep_top_p(candidates, static_cast<double>(params.top_p));
  const double least = static_cast<double>(params.min_p) * candidates.front().weight;
  std::erase_if(candidates, [least](const Candidate& c) { return c.weight < least; });
  return draw_from(candidates, params.uniform);
}

}  // namespace deltacome::cpu
