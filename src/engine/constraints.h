// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "deltacome/request.h"
#include "grammar/automaton.h"
#include "grammar/token_masks.h"

namespace deltacome {

/// Constraints that were compiled, and their masks for each vocabulary, within a budget of bytes:
/// those that were not used for longest go first; who uses one keeps it alive. Thread-safe.
class ConstraintCache {
 public:
  explicit ConstraintCache(size_t budget_bytes = size_t{256} << 20) : budget_(budget_bytes) {}

  /// Throws what the compilers of grammar/compile.h throw. New ones are compiled on the calling
  /// thread, and the masks of their first states are made.
  std::shared_ptr<grammar::TokenMasks> get(const Constraint& constraint,
                                           std::shared_ptr<const grammar::TokenSet> tokens);
  size_t size() const;  // constraints

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<const grammar::Automaton> automaton;
    std::vector<std::shared_ptr<grammar::TokenMasks>> masks;  // of different token sets
    size_t bytes() const;
  };
  using Entries = std::list<Entry>;  // the last used first

  void drop_old();

  const size_t budget_;
  mutable std::mutex mutex_;
  Entries entries_;
  std::unordered_map<std::string_view, Entries::iterator> by_key_;  // keys view the entries'
};

}  // namespace deltacome
