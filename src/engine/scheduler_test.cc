// SPDX-License-Identifier: Apache-2.0
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>

namespace deltacome {
namespace {

struct Job {
  std::string tenant = {}, variant = {};
  int64_t n_prompt = 16, n_output = 16;
  double weight = 1;
  int priority = 0;
};

/// A machine whose step takes a second and a hundredth of one for each row; sequences whose answers
/// have a given length.
class Machine {
 public:
  Machine(const SchedulerOptions& options, int64_t n_blocks) : scheduler(options, n_blocks) {}

  SequenceState& add(const Job& job, bool bound = false) {
    auto owned = std::make_unique<SequenceState>();
    SequenceState& s = *owned;
    s.id = next_id_++;
    s.tenant = job.tenant;
    s.variant = job.variant;
    s.weight = job.weight;
    s.priority = job.priority;
    s.arrival_s = now;
    s.bound = bound;
    s.n_prompt = job.n_prompt;
    // Different first tokens: no shared prefixes unless a test wants them.
    for (int64_t i = 0; i < job.n_prompt; ++i)
      s.tokens.push_back(static_cast<int32_t>(s.id * 1000 + static_cast<uint64_t>(i)));
    s.root = prefix_root(job.variant, job.tenant, "", "");
    left_[s.id] = job.n_output;
    scheduler.add(s);
    sequences_.push_back(std::move(owned));
    return s;
  }

  /// One step; on_token(sequence, whether it was its last).
  bool step(const std::function<void(SequenceState&, bool)>& on_token = {}) {
    const std::vector<StepItem> items = scheduler.plan(now, bind);
    int64_t rows = 0;
    for (const StepItem& item : items) {
      rows += item.n_tokens;
      SequenceState& s = *item.sequence;
      EXPECT_TRUE(s.running);
      EXPECT_GE(static_cast<int64_t>(s.kv.blocks.size()) * kKvBlock, s.kv.length + item.n_tokens);
      EXPECT_LE(item.n_tokens, s.pending());
      s.kv.length += item.n_tokens;
    }
    last_rows = rows;
    if (items.empty()) return false;
    now += 1 + 0.01 * static_cast<double>(rows);
    scheduler.computed(items);
    for (const StepItem& item : items) {
      SequenceState& s = *item.sequence;
      if (s.pending() > 0) continue;
      s.tokens.push_back(7);
      service[s.tenant] += 1;
      const bool last = --left_[s.id] == 0;
      if (last) scheduler.remove(s);
      if (on_token) on_token(s, last);
    }
    return true;
  }

  Scheduler scheduler;
  double now = 0;
  int64_t last_rows = 0;
  std::map<std::string, int64_t> service;  // output tokens
  Scheduler::Bind bind = [](SequenceState&) { return true; };

 private:
  std::vector<std::unique_ptr<SequenceState>> sequences_;
  std::map<uint64_t, int64_t> left_;
  uint64_t next_id_ = 1;
};

TEST(Scheduler, LongPromptsAreCutAndDelayNobody) {
  Machine machine({.max_sequences = 8, .step_tokens = 64}, 1000);
  SequenceState& first = machine.add({.tenant = "a", .n_output = 100});
  machine.step();
  machine.add({.tenant = "b", .n_prompt = 1000});
  SequenceState& brief = machine.add({.tenant = "b", .n_prompt = 20});
  const int64_t had = first.n_tokens();
  machine.step();
  EXPECT_LE(machine.last_rows, 64);
  EXPECT_EQ(first.n_tokens(), had + 1);             // runs on in every step
  EXPECT_EQ(brief.n_tokens(), brief.n_prompt + 1);  // not behind the long prompt
  for (int i = 0; i < 10; ++i) {
    machine.step();
    EXPECT_LE(machine.last_rows, 64);
    EXPECT_EQ(first.n_tokens(), had + 2 + i);
  }
}

TEST(Scheduler, TenantsGetServiceByWeight) {
  Machine machine({.max_sequences = 4, .step_tokens = 64}, 1000);
  for (int i = 0; i < 200; ++i) {
    machine.add({.tenant = "light", .n_output = 8});
    machine.add({.tenant = "heavy", .n_output = 8, .weight = 3});
  }
  for (int i = 0; i < 300; ++i) machine.step();
  EXPECT_NEAR(
      static_cast<double>(machine.service["heavy"]) / static_cast<double>(machine.service["light"]),
      3, 0.3);
}

TEST(Scheduler, VariantsOfATenantGetEqualService) {
  Machine machine({.max_sequences = 4, .step_tokens = 64}, 1000);
  std::map<std::string, int> tokens;
  for (int i = 0; i < 300; ++i) machine.add({.variant = "busy", .n_output = 8});
  for (int i = 0; i < 60; ++i) machine.add({.variant = "rare", .n_output = 8});
  for (int i = 0; i < 150; ++i) machine.step([&](SequenceState& s, bool) { ++tokens[s.variant]; });
  EXPECT_NEAR(static_cast<double>(tokens["rare"]) / tokens["busy"], 1, 0.15);
}

TEST(Scheduler, ATenantThatWasAwayDoesNotSaveUpService) {
  Machine machine({.max_sequences = 2, .step_tokens = 64}, 1000);
  for (int i = 0; i < 400; ++i) machine.add({.tenant = "always", .n_output = 8});
  for (int i = 0; i < 400; ++i) machine.step();
  machine.service.clear();
  for (int i = 0; i < 400; ++i) machine.add({.tenant = "back", .n_output = 8});
  for (int i = 0; i < 200; ++i) machine.step();
  EXPECT_NEAR(
      static_cast<double>(machine.service["back"]) / static_cast<double>(machine.service["always"]),
      1, 0.2);
}

TEST(Scheduler, PrioritiesOrderATenantsRequestsAndAge) {
  Machine machine({.max_sequences = 1, .step_tokens = 64, .aging_s = 100}, 1000);
  machine.add({.n_output = 2});
  SequenceState& low = machine.add({.n_output = 2, .priority = 1});
  SequenceState& high = machine.add({.n_output = 2, .priority = -1});
  std::vector<uint64_t> ended;
  const auto note = [&](SequenceState& s, bool last) {
    if (last) ended.push_back(s.id);
  };
  while (machine.step(note)) {
  }
  EXPECT_EQ(ended, (std::vector<uint64_t>{high.id, 1, low.id}));
  // A stream of better ones does not keep it out for ever.
  SequenceState& old = machine.add({.n_output = 1, .priority = 3});
  bool done = false;
  for (int i = 0; i < 1000 && !done; ++i) {
    machine.add({.n_output = 1});
    machine.step([&](SequenceState& s, bool) { done |= &s == &old; });
  }
  EXPECT_TRUE(done);
}

TEST(Scheduler, PreemptionLosesNobodyAndTakesFromTheTenantWithMost) {
  // 12 blocks of 16 tokens; each sequence grows to 5 blocks.
  Machine machine({.max_sequences = 8, .step_tokens = 64}, 12);
  std::map<uint64_t, int> ended;
  SequenceState& modest = machine.add({.tenant = "modest", .n_prompt = 16, .n_output = 64});
  for (int i = 0; i < 10; ++i) machine.add({.tenant = "greedy", .n_prompt = 16, .n_output = 64});
  bool modest_always_ran = true;
  int steps = 0;
  while (machine.step([&](SequenceState& s, bool last) { ended[s.id] += last ? 1 : 0; })) {
    if (ended[modest.id] == 0) modest_always_ran &= modest.running;
    ASSERT_LT(++steps, 5000);
  }
  EXPECT_EQ(ended.size(), 11u);
  for (const auto& [id, n] : ended) EXPECT_EQ(n, 1) << id;
  EXPECT_GT(machine.scheduler.n_preempted(), 0);
  EXPECT_TRUE(modest_always_ran);
  EXPECT_EQ(machine.scheduler.pool().available(), 12);
}

TEST(Scheduler, RecomputedTokensAreNotChargedTwice) {
  Machine crowded({.max_sequences = 8, .step_tokens = 64}, 12);
  for (int i = 0; i < 6; ++i) crowded.add({.tenant = "t", .n_prompt = 16, .n_output = 64});
  crowded.add({.tenant = "u", .n_prompt = 16, .n_output = 400 - 16 - 240});
  while (crowded.step()) {
  }
  EXPECT_GT(crowded.scheduler.n_preempted(), 0);
  // The last token of an answer is never computed.
  EXPECT_EQ(crowded.scheduler.queue().service("t"), 6 * (16 + 2 * 63));
}

TEST(Scheduler, EqualPromptsShareBlocks) {
  Machine machine({.max_sequences = 4, .step_tokens = 256}, 100);
  SequenceState& a = machine.add({.tenant = "t", .n_prompt = 100, .n_output = 50});
  machine.step();
  SequenceState& b = machine.add({.tenant = "t", .n_prompt = 100, .n_output = 50});
  b.tokens.assign(a.tokens.begin(), a.tokens.begin() + 100);
  machine.step();
  EXPECT_EQ(b.n_cached_prompt, 96);
  EXPECT_TRUE(std::equal(a.kv.blocks.begin(), a.kv.blocks.begin() + 6, b.kv.blocks.begin()));
  EXPECT_NE(a.kv.blocks[6], b.kv.blocks[6]);
}

TEST(Scheduler, AVariantThatIsNotReadyHoldsUpNoOther) {
  Machine machine({.max_sequences = 4, .step_tokens = 64}, 100);
  machine.bind = [](SequenceState& s) { return s.variant != "loading"; };
  SequenceState& waits = machine.add({.variant = "loading"});
  SequenceState& runs = machine.add({.variant = "ready"});
  machine.step();
  EXPECT_FALSE(waits.running);
  EXPECT_TRUE(runs.running);
}

/// Found by the storm: a load waited for the bound one to end, and that one waited behind another
/// that waited for the load.
TEST(Scheduler, ABoundSequenceGoesBeforeThoseThatWaitForALoad) {
  Machine machine({.max_sequences = 4, .step_tokens = 64}, 100);
  machine.bind = [](SequenceState&) { return false; };
  machine.add({.variant = "v"});
  SequenceState& bound = machine.add({.variant = "v"}, true);
  machine.step();
  EXPECT_TRUE(bound.running);
}

TEST(Scheduler, TheNextInLineIsNotPassedWhileBlocksAddUp) {
  Machine machine({.max_sequences = 8, .step_tokens = 64}, 20);
  machine.add({.tenant = "a", .n_prompt = 160, .n_output = 8});
  for (int i = 0; i < 4; ++i) machine.step();
  SequenceState& big = machine.add({.tenant = "b", .n_prompt = 256, .n_output = 8});
  for (int i = 0; i < 50; ++i) machine.add({.tenant = "a", .n_output = 8});
  int steps = 0;
  while (!big.running) {
    ASSERT_TRUE(machine.step());
    ASSERT_LT(++steps, 20);
  }
}

TEST(ShareOut, IsMaxMinFair) {
  const std::vector<int64_t> demands = {10, 1000, 1000, 3};
  const std::vector<double> equal = {1, 1, 1, 1};
  EXPECT_EQ(share_out(113, demands, equal), (std::vector<int64_t>{10, 50, 50, 3}));
  EXPECT_EQ(share_out(5000, demands, equal), demands);
  const std::vector<double> weights = {1, 3, 1, 1};
  const std::vector<int64_t> shares = share_out(413, demands, weights);
  EXPECT_EQ(shares[0] + shares[1] + shares[2] + shares[3], 413);
  EXPECT_NEAR(static_cast<double>(shares[1]) / static_cast<double>(shares[2]), 3, 0.1);
  EXPECT_EQ(share_out(2, demands, equal), (std::vector<int64_t>{1, 1, 0, 0}));
}

/// Mean and 99th percentile of the times between tokens of tenant "watched", which keeps 4 answers
/// going, beside a neighbour.
struct Gaps {
  double mean = 0, p99 = 0, max = 0, wait_max = 0;
};
Gaps gaps_beside(bool flood, bool strict) {
  Machine machine({.max_sequences = 16, .step_tokens = 128, .strict_shares = strict}, 4000);
  std::mt19937 rng(5);
  std::uniform_int_distribution<int64_t> length(8, 511);
  const auto job = [&](const std::string& tenant) {
    return Job{.tenant = tenant, .n_prompt = length(rng), .n_output = length(rng)};
  };
  for (int i = 0; i < 4; ++i) machine.add(job("watched"));
  // What is left of the seats is the neighbour's share; by strict shares it is half of them.
  const int share = strict ? 8 : 12;
  for (int i = 0; i < (flood ? 1000 : share); ++i) machine.add(job("neighbour"));
  std::map<uint64_t, double> last_token, arrival;
  std::vector<double> gaps;
  Gaps out;
  for (int i = 0; i < 6000; ++i) {
    std::vector<std::string> ended;
    machine.step([&](SequenceState& s, bool last) {
      if (last) ended.push_back(s.tenant);
      if (s.tenant != "watched") return;
      if (last_token.contains(s.id)) {
        gaps.push_back(machine.now - last_token[s.id]);
      } else {
        out.wait_max = std::max(out.wait_max, machine.now - s.arrival_s);
      }
      last_token[s.id] = machine.now;
    });
    for (const std::string& tenant : ended) {
      if (tenant == "watched" || !flood) machine.add(job(tenant));
    }
  }
  std::ranges::sort(gaps);
  for (const double gap : gaps) out.mean += gap / static_cast<double>(gaps.size());
  out.p99 = gaps[gaps.size() * 99 / 100];
  out.max = gaps.back();
  return out;
}

/// The bound that docs/engine.md promises: beside 1,000 requests of a neighbour the time between
/// tokens is at most 20 % above that beside a neighbour that keeps to its share.
TEST(Scheduler, AFloodLengthensTheTimeBetweenTokensByAFifthAtMost) {
  for (const bool strict : {false, true}) {
    const Gaps fair = gaps_beside(false, strict), flood = gaps_beside(true, strict);
    EXPECT_LE(flood.mean, 1.2 * fair.mean) << strict;
    EXPECT_LE(flood.p99, 1.2 * fair.p99) << strict;
    EXPECT_LE(flood.max, 1.2 * fair.max) << strict;
    // Seats become free one at a time, and its turn is next; nobody is put out of one.
    EXPECT_LE(flood.wait_max, 60 * 2.28) << strict;
  }
}

TEST(FairQueue, ABusyTenantsVariantsAreForgottenWhenTheyAreIdle) {
  FairQueue queue(10);
  SequenceState always;
  always.id = 1;
  always.variant = "always";
  queue.enter(always);
  queue.push(always);
  for (uint64_t i = 2; i < 1000; ++i) {
    SequenceState s;
    s.id = i;
    s.variant = std::to_string(i);
    queue.enter(s);
    queue.push(s);
    queue.erase(s);
    queue.leave(s);
    EXPECT_LE(queue.n_variants(""), 66);
  }
  EXPECT_EQ(queue.next(0, [](SequenceState&) { return true; }), &always);
}

}  // namespace
}  // namespace deltacome
