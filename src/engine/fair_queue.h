// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "engine/sequence_state.h"

namespace deltacome {

/// Waiting sequences, and who is next: the tenant that has had the least service for its weight,
/// then, among its requests, the best priority, then the variant with the least service, then the
/// first come. Service is counted in virtual tokens. A tenant that was away does not save up
/// service: it comes back at the level of the least served active one. Ref: Sheng et al., Fairness
/// in Serving Large Language Models, arXiv:2401.00588, algorithm 2, on two levels.
/// A priority step is worth `aging_s` seconds of waiting, so that low priorities come up too; being
/// old never puts a request before one of its own priority and a less served variant.
/// One thread at a time.
class FairQueue {
 public:
  explicit FairQueue(double aging_s) : aging_s_(aging_s) {}

  /// The sequence counts as active until leave().
  void enter(const SequenceState& sequence);
  void leave(const SequenceState& sequence);
  /// Puts an active sequence in the queue, takes it out.
  void push(SequenceState& sequence);
  void erase(SequenceState& sequence);
  /// Next of the waiting sequences for which `eligible` holds; it is asked for the first one of
  /// each variant of a tenant, at most once per call. Null if there is none.
  SequenceState* next(double now_s, const std::function<bool(SequenceState&)>& eligible) const;

  void charge(const SequenceState& sequence, double virtual_tokens);

  int64_t n_waiting() const noexcept { return n_waiting_; }
  int64_t n_active_tenants() const noexcept { return n_active_tenants_; }
  /// Sum of the weights of active tenants.
  double active_weight() const noexcept;
  /// How many variants of a tenant have a counter; those idle for long have none.
  int64_t n_variants(const std::string& tenant) const;
  /// Virtual tokens over weight; negative for a tenant that is not known.
  double service(const std::string& tenant) const;

 private:
  struct Earlier {
    double aging_s;
    bool operator()(const SequenceState* a, const SequenceState* b) const noexcept;
  };
  struct Level {  // one counter of service
    double service = 0;
    int64_t active = 0;
  };
  struct VariantQueue : Level {
    std::set<SequenceState*, Earlier> waiting;
  };
  struct Tenant : Level {
    double weight = 1;
    int64_t waiting = 0;
    std::map<std::string, VariantQueue> variants;
  };
  SequenceState* next_of(const Tenant& tenant, double now_s,
                         const std::function<bool(SequenceState&)>& eligible) const;
  VariantQueue& queue_of(const SequenceState& sequence);
  void forget_idle_tenants();

  double aging_s_;
  std::map<std::string, Tenant> tenants_;
  int64_t n_waiting_ = 0;
  int64_t n_active_tenants_ = 0;
};

}  // namespace deltacome
