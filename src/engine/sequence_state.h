// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/prefix_key.h"
#include "model/kv_cache.h"

namespace deltacome {

/// One answer as the scheduler sees it.
struct SequenceState {
  uint64_t id = 0;  // order of arrival, unique
  std::string tenant;
  std::string variant;  // the name that was asked for
  double weight = 1;    // of the tenant
  int priority = 0;
  double arrival_s = 0;

  std::vector<int32_t> tokens;  // prompt, then what was generated
  int64_t n_prompt = 0;
  Sequence kv;  // blocks of BlockPool; length = tokens whose keys and values are in them

  PrefixKey root;                // set when it is bound to a variant
  std::vector<PrefixKey> keys;   // of the full blocks of `tokens`, as far as they were needed
  int64_t n_published = 0;       // leading blocks that the pool knows by key
  int64_t n_charged = 0;         // leading tokens whose computation was charged to the tenant
  int64_t n_cached_prompt = -1;  // prompt tokens found in the prefix cache when first admitted

  // To a version of its variant, and stays so to its end (E4). Goes before those that are not: they
  // may wait for a load that waits for this one.
  bool bound = false;
  bool running = false;  // has a seat

  int64_t n_tokens() const noexcept { return static_cast<int64_t>(tokens.size()); }
  /// Tokens to be computed before the next one is known.
  int64_t pending() const noexcept { return n_tokens() - kv.length; }
};

}  // namespace deltacome
