// SPDX-License-Identifier: Apache-2.0
#include "engine/fair_queue.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/check.h"

namespace deltacome {
namespace {

constexpr size_t kKeptTenants = 1024;  // whose service is remembered while they are away
constexpr size_t kKeptVariants = 64;   // of one tenant, likewise

/// Least service of the active entries of a map; 0 if there are none.
template <class Map>
double least_service(const Map& levels) {
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [_, level] : levels) {
    if (level.active > 0) least = std::min(least, level.service);
  }
  return std::isinf(least) ? 0 : least;
}

}  // namespace

bool FairQueue::Earlier::operator()(const SequenceState* a, const SequenceState* b) const noexcept {
  // Becomes true only for the first of a queue, which then still is the first.
  if (a->bound != b->bound) return a->bound;
  const double x = a->arrival_s + a->priority * aging_s, y = b->arrival_s + b->priority * aging_s;
  return x != y ? x < y : a->id < b->id;
}

void FairQueue::enter(const SequenceState& sequence) {
  if (tenants_.size() > kKeptTenants) forget_idle_tenants();
  const double least = least_service(tenants_);
  Tenant& tenant = tenants_[sequence.tenant];
  if (tenant.variants.size() > kKeptVariants)
    std::erase_if(tenant.variants, [](const auto& each) { return each.second.active == 0; });
  const double least_variant = least_service(tenant.variants);
  VariantQueue& queue =
      tenant.variants
          .try_emplace(sequence.variant,
                       VariantQueue{{}, decltype(queue.waiting)(Earlier{aging_s_})})
          .first->second;
  // From here on nothing throws: it has entered, or nothing has changed.
  tenant.weight = sequence.weight;
  if (tenant.active++ == 0) {
    tenant.service = std::max(tenant.service, least);
    ++n_active_tenants_;
  }
  if (queue.active++ == 0) queue.service = std::max(queue.service, least_variant);
}

void FairQueue::leave(const SequenceState& sequence) {
  Tenant& tenant = tenants_.at(sequence.tenant);
  --tenant.variants.at(sequence.variant).active;
  if (--tenant.active > 0) return;
  --n_active_tenants_;
  tenant.variants.clear();  // fairness between variants is among requests that are there together
}

void FairQueue::push(SequenceState& sequence) {
  DELTACOME_CHECK(queue_of(sequence).waiting.insert(&sequence).second);
  ++tenants_.at(sequence.tenant).waiting;
  ++n_waiting_;
}

void FairQueue::erase(SequenceState& sequence) {
  DELTACOME_CHECK(queue_of(sequence).waiting.erase(&sequence) == 1);
  --tenants_.at(sequence.tenant).waiting;
  --n_waiting_;
}

FairQueue::VariantQueue& FairQueue::queue_of(const SequenceState& sequence) {
  return tenants_.at(sequence.tenant).variants.at(sequence.variant);
}

SequenceState* FairQueue::next(double now_s,
                               const std::function<bool(SequenceState&)>& eligible) const {
  std::vector<const Tenant*> order;
  for (const auto& [_, tenant] : tenants_) {
    if (tenant.waiting > 0) order.push_back(&tenant);
  }
  std::ranges::stable_sort(order, {}, [](const Tenant* t) { return t->service; });
  for (const Tenant* tenant : order) {
    if (SequenceState* found = next_of(*tenant, now_s, eligible)) return found;
  }
  return nullptr;
}

SequenceState* FairQueue::next_of(const Tenant& tenant, double now_s,
                                  const std::function<bool(SequenceState&)>& eligible) const {
  struct Head {
    SequenceState* sequence;
    double service;
  };
  std::vector<Head> heads;
  int best = std::numeric_limits<int>::max();
  for (const auto& [_, queue] : tenant.variants) {
    if (queue.waiting.empty()) continue;
    heads.push_back({*queue.waiting.begin(), queue.service});
    best = std::min(best, heads.back().sequence->priority);
  }
  // Waiting lifts a priority up to the best one there is, not beyond.
  const auto rank = [&](const SequenceState& s) {
    const double aged = s.priority - std::floor((now_s - s.arrival_s) / aging_s_);
    return std::max(aged, static_cast<double>(best));
  };
  std::ranges::sort(heads, [&](const Head& a, const Head& b) {
    if (a.sequence->bound != b.sequence->bound) return a.sequence->bound;
    const double x = rank(*a.sequence), y = rank(*b.sequence);
    if (x != y) return x < y;
    return a.service != b.service ? a.service < b.service : a.sequence->id < b.sequence->id;
  });
  for (const Head& head : heads) {
    if (eligible(*head.sequence)) return head.sequence;
  }
  return nullptr;
}

void FairQueue::charge(const SequenceState& sequence, double virtual_tokens) {
  Tenant& tenant = tenants_.at(sequence.tenant);
  tenant.service += virtual_tokens / tenant.weight;
  tenant.variants.at(sequence.variant).service += virtual_tokens;
}

double FairQueue::active_weight() const noexcept {
  double sum = 0;
  for (const auto& [_, tenant] : tenants_) {
    if (tenant.active > 0) sum += tenant.weight;
  }
  return sum;
}

int64_t FairQueue::n_variants(const std::string& tenant) const {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? 0 : static_cast<int64_t>(found->second.variants.size());
}

double FairQueue::service(const std::string& tenant) const {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? -1 : found->second.service;
}

void FairQueue::forget_idle_tenants() {
  // Those below the active ones would come back at their level anyway; of the others the least
  // served lose least.
  std::vector<std::pair<double, std::string>> idle;
  for (const auto& [name, tenant] : tenants_) {
    if (tenant.active == 0) idle.emplace_back(tenant.service, name);
  }
  std::ranges::sort(idle);
  for (size_t i = 0; i < (idle.size() + 1) / 2; ++i) tenants_.erase(idle[i].second);
}

}  // namespace deltacome
