// SPDX-License-Identifier: Apache-2.0
#include "engine/scheduler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "core/check.h"

namespace deltacome {
namespace {

/// Rows of a step that one more prompt must find free before it is admitted: chunks that are much
/// shorter would have the overhead of a step without its work.
constexpr int64_t kLeastChunk = kKvBlock;

int64_t full_blocks(int64_t n_tokens) {
  return n_tokens / kKvBlock;
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, int64_t n_blocks)
    : options_(options), pool_(n_blocks), queue_(options.aging_s) {
  DELTACOME_CHECK(options.max_sequences > 0 && options.step_tokens >= options.max_sequences);
}

void Scheduler::add(SequenceState& sequence) {
  DELTACOME_CHECK(!sequence.tokens.empty() && sequence.weight > 0);
  queue_.enter(sequence);
  try {
    queue_.push(sequence);
  } catch (...) {  // no memory: as if it had never come
    queue_.leave(sequence);
    throw;
  }
}

void Scheduler::remove(SequenceState& sequence) {
  if (sequence.running) {
    std::erase(running_, &sequence);
    pool_.release(sequence.kv.blocks);
    sequence.running = false;
  } else {
    queue_.erase(sequence);
  }
  queue_.leave(sequence);
}

std::vector<StepItem> Scheduler::plan(double now_s, const Bind& bind) {
  grow_running();
  admit(now_s, bind);
  return share_rows();
}

/// Blocks for the next token of every sequence that generates; takes them from others if there are
/// none. The oldest of all is taken from last and fits the pool alone, so each step gets at least
/// one sequence further (E8).
void Scheduler::grow_running() {
  const std::vector<SequenceState*> order = running_;
  for (SequenceState* sequence : order) {
    while (sequence->running && KvCache::blocks_for(sequence->n_tokens()) >
                                    static_cast<int64_t>(sequence->kv.blocks.size())) {
      if (pool_.available() > 0) {
        sequence->kv.blocks.push_back(pool_.allocate());
      } else {
        preempt(victim());
      }
    }
  }
}

void Scheduler::admit(double now_s, const Bind& bind) {
  int64_t rows = options_.step_tokens, prompts = 0;
  for (const SequenceState* sequence : running_) {
    if (sequence->pending() == 1) {
      --rows;
    } else {
      ++prompts;
    }
  }
  const int64_t least = std::min(kLeastChunk, options_.step_tokens);  // else small steps admit none
  while (n_running() < options_.max_sequences && (prompts + 1) * least <= rows) {
    SequenceState* next = queue_.next(now_s, [&](SequenceState& s) {
      if (!has_share(s)) return false;
      if (!s.bound) s.bound = bind(s);
      return s.bound;
    });
    // Nobody goes past the one whose turn it is: blocks that become free add up for it.
    if (next == nullptr || !seat(*next)) return;
    ++prompts;
  }
}

bool Scheduler::has_share(const SequenceState& sequence) const {
  if (!options_.strict_shares || queue_.n_active_tenants() < 2) return true;
  const auto held = std::ranges::count(running_, sequence.tenant, &SequenceState::tenant);
  const double share =
      static_cast<double>(options_.max_sequences) * sequence.weight / queue_.active_weight();
  return static_cast<double>(held) < std::max(1.0, share);
}

bool Scheduler::seat(SequenceState& sequence) {
  // At least one token is computed: its row gives the next one.
  const int64_t n_reusable = full_blocks(sequence.n_tokens() - 1);
  make_keys(sequence, n_reusable);
  int64_t n_found = 0, n_idle = 0;
  for (; n_found < n_reusable; ++n_found) {
    const auto found = pool_.look_up(sequence.keys[static_cast<size_t>(n_found)]);
    if (found == BlockPool::Lookup::kAbsent) break;
    if (found == BlockPool::Lookup::kIdle) ++n_idle;
  }
  const int64_t n_new = KvCache::blocks_for(sequence.n_tokens()) - n_found;
  // A block more for each one that runs, or the newcomer would soon be thrown out again.
  if (n_new + n_running() > pool_.available() - n_idle) return false;
  queue_.erase(sequence);
  for (int64_t i = 0; i < n_found; ++i)
    sequence.kv.blocks.push_back(*pool_.take(sequence.keys[static_cast<size_t>(i)]));
  for (int64_t i = 0; i < n_new; ++i) sequence.kv.blocks.push_back(pool_.allocate());
  sequence.kv.length = n_found * kKvBlock;
  sequence.n_published = n_found;
  // What others have computed costs nothing. The rest of the prompt is charged now, so that the
  // next seat of this step already counts it.
  sequence.n_charged = std::max(sequence.n_charged, sequence.kv.length);
  if (sequence.n_charged < sequence.n_prompt) {
    queue_.charge(sequence, options_.input_cost *
                                static_cast<double>(sequence.n_prompt - sequence.n_charged));
    sequence.n_charged = sequence.n_prompt;
  }
  if (sequence.n_cached_prompt < 0)
    sequence.n_cached_prompt = std::min(sequence.kv.length, sequence.n_prompt);
  sequence.running = true;
  const auto place = std::ranges::lower_bound(running_, sequence.id, {}, &SequenceState::id);
  running_.insert(place, &sequence);
  return true;
}

/// Whose blocks are taken: a sequence that is not its tenant's oldest, of the tenant with the most
/// blocks for its weight, the last one come; if all are their tenant's oldest, the last one come.
SequenceState& Scheduler::victim() const {
  std::map<std::string_view, double> load;
  std::map<std::string_view, uint64_t> oldest;  // running_ is by id
  for (const SequenceState* s : running_) {
    load[s->tenant] += static_cast<double>(s->kv.blocks.size()) / s->weight;
    oldest.try_emplace(s->tenant, s->id);
  }
  const auto rank = [&](const SequenceState* s) {
    const bool spare = oldest.at(s->tenant) != s->id;
    return std::tuple(spare, spare ? load.at(s->tenant) : 0.0, s->id);
  };
  return **std::ranges::max_element(running_, {}, rank);
}

void Scheduler::preempt(SequenceState& sequence) {
  std::erase(running_, &sequence);
  pool_.release(sequence.kv.blocks);
  sequence.kv.length = 0;
  sequence.n_published = 0;
  sequence.running = false;
  queue_.push(sequence);
  ++n_preempted_;
}

std::vector<StepItem> Scheduler::share_rows() const {
  std::vector<StepItem> items;
  std::vector<SequenceState*> prompts;
  std::map<std::string_view, int> n_prompts;  // of each tenant
  int64_t rows = options_.step_tokens;
  for (SequenceState* sequence : running_) {
    if (sequence->pending() == 1) {
      items.push_back({sequence, 1});
      --rows;
    } else {
      prompts.push_back(sequence);
      ++n_prompts[sequence->tenant];
    }
  }
  std::vector<int64_t> demands;
  std::vector<double> weights;
  for (const SequenceState* s : prompts) {
    demands.push_back(s->pending());
    weights.push_back(s->weight / n_prompts.at(s->tenant));
  }
  const std::vector<int64_t> shares = share_out(rows, demands, weights);
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (shares[i] > 0) items.push_back({prompts[i], shares[i]});
  }
  return items;
}

void Scheduler::computed(std::span<const StepItem> items) {
  for (const StepItem& item : items) {
    SequenceState& s = *item.sequence;
    // After a preemption tokens are computed again at the engine's cost.
    const int64_t outputs = std::max<int64_t>(0, s.kv.length - s.n_charged);
    queue_.charge(s, options_.output_cost * static_cast<double>(outputs));
    s.n_charged = std::max(s.n_charged, s.kv.length);
    const int64_t n_full = full_blocks(s.kv.length);
    make_keys(s, n_full);
    for (; s.n_published < n_full; ++s.n_published) {
      const auto i = static_cast<size_t>(s.n_published);
      pool_.publish(s.kv.blocks[i], s.keys[i]);
    }
  }
}

void Scheduler::make_keys(SequenceState& s, int64_t n_blocks) const {
  while (static_cast<int64_t>(s.keys.size()) < n_blocks) {
    const PrefixKey& before = s.keys.empty() ? s.root : s.keys.back();
    const auto first = s.keys.size() * static_cast<size_t>(kKvBlock);
    s.keys.push_back(
        next_prefix_key(before, std::span(s.tokens).subspan(first, static_cast<size_t>(kKvBlock))));
  }
}

std::vector<int64_t> share_out(int64_t total, std::span<const int64_t> demands,
                               std::span<const double> weights) {
  std::vector<int64_t> shares(demands.size(), 0);
  std::vector<size_t> open(demands.size());
  for (size_t i = 0; i < open.size(); ++i) open[i] = i;
  while (total > 0 && !open.empty()) {
    double weight = 0;
    for (const size_t i : open) weight += weights[i];
    const int64_t round = total;
    for (const size_t i : open) {
      // At least one token each, so that the rounds end.
      const auto part = static_cast<int64_t>(static_cast<double>(round) * weights[i] / weight);
      const int64_t more = std::min({std::max<int64_t>(part, 1), demands[i] - shares[i], total});
      shares[i] += more;
      total -= more;
    }
    std::erase_if(open, [&](size_t i) { return shares[i] == demands[i]; });
  }
  return shares;
}

}  // namespace deltacome
