// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/model.h"

namespace deltacome {

struct GenerationRequest {
  std::vector<int32_t> prompt;  // at least one token; ids below 0 are rows of `given`
  Variant variant;
  int64_t max_tokens = 0;
  std::vector<int64_t> stop_ids;  // end the generation; not part of the result
  SampleParams sampling;          // uniform and vocab_size are filled in here
  uint64_t seed = 0;
  Tensor given = {};  // [n, hidden_size] f32 or empty (model/given_rows.h)
};

struct Generation {
  std::vector<int32_t> tokens;
  bool stopped = false;  // by a stop id (else by max_tokens or the callback)
};

/// Number in [0, 1) for one step of one request: a hash of both, so that a request's result does
/// not depend on what else is in the batch. Ref: Steele et al., SplitMix, OOPSLA 2014.
double uniform_draw(uint64_t seed, uint64_t step) noexcept;

/// Continues every prompt, `n_concurrent` of them at a time in one batch; a finished request's
/// place is taken by the next. on_token(request, token) is called for each token as it is made;
/// false ends that request. Results are those of each request alone.
std::vector<Generation> generate(const Model& model, Stream& stream,
                                 std::span<const GenerationRequest> requests,
                                 int64_t n_concurrent = 16,
                                 const std::function<bool(size_t, int32_t)>& on_token = {});

}  // namespace deltacome
