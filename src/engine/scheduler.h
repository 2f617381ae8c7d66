// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/block_pool.h"
#include "engine/fair_queue.h"
#include "engine/sequence_state.h"

namespace deltacome {

struct SchedulerOptions {
  int64_t max_sequences = 32;  // seats: sequences that are in the cache at once
  int64_t step_tokens = 512;   // rows of one step; at least max_sequences
  bool strict_shares = false;  // while others are active, a tenant gets no more than its share of
                               // the seats, even if some stay empty: latency before throughput
  double aging_s = 10;         // see FairQueue
  double input_cost = 1;       // virtual tokens of a computed prompt token, and
  double output_cost = 2;      // of a generated one; the values of arXiv:2401.00588, section 5
};

/// A sequence's part of a step.
struct StepItem {
  SequenceState* sequence = nullptr;
  int64_t n_tokens = 0;  // its next pending ones
};

/// Decides what each step computes: which sequences have seats, and how many of each one's pending
/// tokens are rows of the step. Every running sequence that has one token to compute is in every
/// step (E2); what is left of step_tokens is shared by prompts, so that neither a long prompt nor a
/// queue of them delays anybody by more than one step. No clock, threads or model: time is told.
/// The caller owns the sequences. One thread at a time.
class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, int64_t n_blocks);

  /// A new sequence, waiting. It must fit the pool alone at its longest.
  void add(SequenceState& sequence);
  /// Ends it, wherever it is; its blocks are released.
  void remove(SequenceState& sequence);

  /// May a waiting sequence start? Called for one that is not bound; if true the caller has bound
  /// it to its variant and set `root`.
  using Bind = std::function<bool(SequenceState&)>;
  /// The next step; empty if nothing can run. Blocks for its tokens are held by the sequences.
  std::vector<StepItem> plan(double now_s, const Bind& bind);
  /// The step has been computed: kv.length of its sequences has grown by n_tokens. Charges tenants,
  /// publishes full blocks. `tokens` may not have grown yet.
  void computed(std::span<const StepItem> items);

  int64_t n_running() const noexcept { return static_cast<int64_t>(running_.size()); }
  int64_t n_waiting() const noexcept { return queue_.n_waiting(); }
  int64_t n_preempted() const noexcept { return n_preempted_; }
  const FairQueue& queue() const noexcept { return queue_; }
  const BlockPool& pool() const noexcept { return pool_; }
  const std::vector<SequenceState*>& running() const noexcept { return running_; }

 private:
  void grow_running();
  void admit(double now_s, const Bind& bind);
  bool has_share(const SequenceState& sequence) const;
  /// Gives it a seat and blocks for its tokens, from the prefix cache as far as it goes; false,
  /// changing nothing, if there are not enough.
  bool seat(SequenceState& sequence);
  SequenceState& victim() const;
  void preempt(SequenceState& sequence);
  void make_keys(SequenceState& sequence, int64_t n_blocks) const;
  std::vector<StepItem> share_rows() const;

  SchedulerOptions options_;
  BlockPool pool_;
  FairQueue queue_;
  std::vector<SequenceState*> running_;  // by id
  int64_t n_preempted_ = 0;
};

/// Splits `total` over demands by weight, none more than it asks for: max-min fairness in whole
/// tokens. Sums to min(total, sum of demands).
std::vector<int64_t> share_out(int64_t total, std::span<const int64_t> demands,
                               std::span<const double> weights);

}  // namespace deltacome
