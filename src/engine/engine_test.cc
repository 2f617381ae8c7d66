// SPDX-License-Identifier: Apache-2.0
#include "deltacome/engine.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <future>
#include <limits>

#include "engine/test_support.h"
#include "model/generate.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

using testing::Collector;
using testing::random_prompt;
using testing::tiny_base;

constexpr int64_t kBlockBytes = 2 * 2 * 16 * 2 * 16 * 4;  // of tiny_base(): k and v, layers, floats

EngineOptions options(int64_t n_blocks = 1000) {
  return {.base = tiny_base(),
          .n_threads = 2,
          .kv_cache_bytes = n_blocks * kBlockBytes,
          .max_sequences = 8,
          .step_tokens = 64};
}

/// One answer at a time, on a base slow enough that the first one runs through the test.
EngineOptions one_at_a_time() {
  EngineOptions o = options();
  o.base = testing::small_base();
  o.kv_cache_bytes = 64 << 20;
  o.max_sequences = 1;
  return o;
}

/// Request number i of a varied lot.
EngineRequest varied(uint32_t i) {
  EngineRequest r{.prompt = random_prompt(1 + i * 7 % 90, i), .max_tokens = 5 + i * 11 % 60};
  r.sampling.temperature = i % 2 == 0 ? 0 : 0.8;
  r.sampling.seed = i;
  if (i % 3 == 0) r.sampling.top_p = 0.9;
  if (i % 5 == 0) r.sampling.repetition_penalty = 1.2;
  if (i % 7 == 0) r.sampling.top_k = 20;
  if (i % 4 == 0) r.logprobs = 2;
  if (i % 8 == 4) r.prompt_logprobs = 1;
  if (i % 6 == 0) r.n = 2;
  r.ignore_eos = i % 2 == 1;
  return r;
}

class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (uint32_t i = 0; i < 3; ++i)
      testing::write_archive(directory_ / (fmt::format("v{}", i)), 100 + i);
  }
  void load_all(Engine& engine) {
    for (int i = 0; i < 3; ++i) {
      const std::string name = fmt::format("v{}", i);
      engine.load(name, directory_ / name);
    }
  }
  std::string variant(uint32_t i) { return i % 4 == 3 ? "" : fmt::format("v{}", i % 4); }

  const test::TempDir directory_;
};

TEST_F(EngineTest, GivesTheTokensOfThePlainGenerator) {
  const Checkpoint checkpoint = Checkpoint::open(tiny_base());
  const auto backend = create_cpu_backend(2);
  const auto stream = backend->create_stream();
  const Model model(*backend, checkpoint, read_model_config(tiny_base()));
  Engine engine(options());
  for (uint32_t i = 0; i < 4; ++i) {
    const std::vector<int32_t> prompt = random_prompt(20, i);
    GenerationRequest plain;
    plain.prompt = prompt;
    plain.max_tokens = 20;
    plain.stop_ids = {2};
    plain.sampling.temperature = i % 2 == 0 ? 0 : 0.7f;
    plain.seed = i;
    EngineRequest request{.prompt = prompt, .max_tokens = 20};
    request.sampling.temperature = plain.sampling.temperature;
    request.sampling.seed = i;
    EXPECT_EQ(engine.generate(request)[0].tokens, generate(model, *stream, {&plain, 1})[0].tokens);
  }
}

TEST_F(EngineTest, AnUnknownDeviceIsRefusedByName) {
  for (const char* device : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "CPU"}) {
    EngineOptions o = options();
    o.device = device;
    try {
      Engine engine(o);
      ADD_FAILURE() << device;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << device;
      EXPECT_EQ(std::string(error.what()),
                fmt::format("device \"{}\", expected cpu, cuda or cuda:N", device));
    }
  }
}

/// E7: alone, and in any mix, with preemption and prefix hits.
TEST_F(EngineTest, AnswersDoNotDependOnTheBatch) {
  constexpr uint32_t kRequests = 40;
  std::vector<std::vector<Answer>> alone;
  {
    EngineOptions o = options();
    o.prefix_cache = false;
    Engine engine(o);
    load_all(engine);
    for (uint32_t i = 0; i < kRequests; ++i) {
      EngineRequest r = varied(i);
      r.variant = variant(i);
      alone.push_back(engine.generate(r));
    }
    EXPECT_EQ(engine.stats().preemptions, 0);
  }
  EngineOptions o = options(14);  // crowded
  o.share_prefixes = true;
  Engine engine(o);
  load_all(engine);
  for (int round = 0; round < 2; ++round) {
    std::vector<std::unique_ptr<Collector>> collectors;
    for (uint32_t i = 0; i < kRequests; ++i) {
      EngineRequest r = varied(i);
      r.variant = variant(i);
      r.tenant = std::to_string(i % 3);
      collectors.push_back(std::make_unique<Collector>());
      engine.submit(r, collectors.back()->handler());
    }
    for (uint32_t i = 0; i < kRequests; ++i) {
      const int n = varied(i).n;
      const std::vector<TokenEvent> events = collectors[i]->wait(n);
      for (int choice = 0; choice < n; ++choice) {
        const Answer& want = alone[i][static_cast<size_t>(choice)];
        EXPECT_EQ(testing::tokens_of(events, choice), want.tokens) << i << " " << choice;
        std::vector<double> logprobs, want_logprobs;
        for (const TokenEvent& e : events)
          if (e.choice == choice && e.logprob) logprobs.push_back(*e.logprob);
        for (const TokenEvent& e : want.events)
          if (e.logprob) want_logprobs.push_back(*e.logprob);
        EXPECT_EQ(logprobs, want_logprobs);
        if (choice > 0) continue;
        EXPECT_EQ(testing::prompt_logprobs_of(events), testing::prompt_logprobs_of(want.events));
      }
    }
  }
  engine.stop();
  EXPECT_GT(engine.stats().preemptions, 0);
  EXPECT_GT(engine.stats().prefix_hits, 0);
  EXPECT_EQ(engine.stats().kv_blocks_in_use, 0);
}

TEST_F(EngineTest, PrefixesAreSharedWithinATenantASaltAndAContentOnly) {
  Engine engine(options());
  load_all(engine);
  const auto cached = [&](const std::string& name, const std::string& tenant,
                          const std::string& salt = "", const std::string& extra = "") {
    EngineRequest r;
    r.variant = name;
    r.tenant = tenant;
    r.cache_salt = salt;
    r.extra_hash = extra;
    r.prompt = random_prompt(64, 1);
    r.max_tokens = 1;
    return engine.generate(r)[0].events.back().cached_tokens;
  };
  EXPECT_EQ(cached("v0", "a"), 0);
  EXPECT_EQ(cached("v0", "a"), 48);  // one block is always computed
  EXPECT_EQ(cached("v0", "b"), 0);
  EXPECT_EQ(cached("v1", "a"), 0);
  EXPECT_EQ(cached("", "a"), 0);
  EXPECT_EQ(cached("v0", "a", "salt"), 0);
  EXPECT_EQ(cached("v0", "a", "", "image"), 0);
  // Under another name the same content shares, another content under the same name does not.
  engine.load("alias", directory_ / "v0");
  EXPECT_EQ(cached("alias", "a"), 48);
  engine.load("v0", directory_ / "v2", {.replace = true});
  EXPECT_EQ(cached("v0", "a"), 0);
  engine.load("v0", directory_ / "v0", {.replace = true});
  EXPECT_EQ(cached("v0", "a"), 48);
}

TEST_F(EngineTest, AnswersOfOneRequestShareThePromptsWork) {
  Engine engine(options());
  EngineRequest r{.prompt = random_prompt(64, 1), .n = 3, .max_tokens = 8, .ignore_eos = true};
  r.sampling.seed = 3;
  const std::vector<Answer> answers = engine.generate(r);
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_NE(answers[0].tokens, answers[1].tokens);
  EXPECT_NE(answers[1].tokens, answers[2].tokens);
  for (const Answer& a : answers) EXPECT_EQ(a.tokens.size(), 8u);
  EXPECT_EQ(engine.stats().prefix_hits, 2 * 48);
  EXPECT_EQ(engine.stats().prompt_tokens, 64 + 2 * 16);
}

/// Each place of a prompt has the log probability that its token would have as an answer to what
/// stands before it; in chunks, beside others, and though the prefix is in the cache.
TEST_F(EngineTest, PromptsAreScoredAsIfTheyHadBeenGenerated) {
  EngineOptions o = options();
  o.step_tokens = 24;
  Engine engine(o);
  load_all(engine);
  EngineRequest scored{.variant = "v1", .prompt = random_prompt(70, 5), .n = 2, .max_tokens = 3};
  engine.generate(scored);
  scored.prompt_logprobs = 2;
  Collector collector, other;
  engine.submit({.prompt = random_prompt(60, 6), .max_tokens = 30}, other.handler());
  engine.submit(scored, collector.handler());
  const std::vector<TokenEvent> events = collector.wait(2);
  other.wait();
  const std::vector<Logprobs>& got = events[0].prompt_logprobs;
  ASSERT_EQ(got.size(), 69u);
  for (size_t i = 1; i < events.size(); ++i) EXPECT_TRUE(events[i].prompt_logprobs.empty());
  for (const TokenEvent& event : events) EXPECT_FALSE(event.error);
  for (const size_t i : {0u, 1u, 22u, 23u, 24u, 47u, 63u, 68u}) {
    EngineRequest next{.variant = "v1", .max_tokens = 1, .ignore_eos = true, .logprobs = 2};
    next.prompt.assign(scored.prompt.begin(), scored.prompt.begin() + static_cast<int64_t>(i) + 1);
    next.sampling.logit_bias = {{scored.prompt[i + 1], 100.0}};
    next.sampling.temperature = 0;
    const TokenEvent want = engine.generate(next)[0].events[0];
    ASSERT_EQ(want.token, scored.prompt[i + 1]);
    EXPECT_EQ(got[i].chosen, want.logprob) << i;
    ASSERT_EQ(got[i].top.size(), 2u);
    for (size_t k = 0; k < 2; ++k) {
      EXPECT_EQ(got[i].top[k].token, want.top_logprobs[k].token) << i;
      EXPECT_EQ(got[i].top[k].logprob, want.top_logprobs[k].logprob) << i;
    }
  }
}

TEST_F(EngineTest, EndsAtIdsAndAfterTheLeastNumberOfTokens) {
  Engine engine(options());
  EngineRequest r{.prompt = random_prompt(20, 4), .max_tokens = 12, .ignore_eos = true};
  r.sampling.temperature = 0;
  const std::vector<int32_t> free = engine.generate(r)[0].tokens;
  ASSERT_EQ(free.size(), 12u);
  const auto stop_at = static_cast<size_t>(
      std::distance(free.begin(), std::find(free.begin(), free.end(), free[4])));
  r.stop_ids = {free[4]};
  const Answer stopped = engine.generate(r)[0];
  EXPECT_EQ(stopped.finish, FinishReason::kStop);
  EXPECT_EQ(stopped.events.back().stop_id, free[4]);
  EXPECT_EQ(stopped.tokens, std::vector<int32_t>(
                                free.begin(), free.begin() + static_cast<std::ptrdiff_t>(stop_at)));
  EXPECT_EQ(stopped.events.back().output_tokens, static_cast<int64_t>(stop_at) + 1);
  r.min_tokens = 9;
  const Answer longer = engine.generate(r)[0];
  EXPECT_GE(longer.tokens.size(), 9u);
  for (size_t i = 0; i < 9; ++i) EXPECT_NE(longer.tokens[i], free[4]);
}

TEST_F(EngineTest, RefusesWhatMakesNoSense) {
  Engine engine(options(64));
  const auto refused = [&](ErrorCode code, const std::string& part,
                           const std::function<void(EngineRequest&)>& change) {
    EngineRequest r{.prompt = {1, 2}};
    change(r);
    test::expect_error(code, part, [&] { engine.generate(r); });
  };
  const auto invalid = ErrorCode::kInvalidArgument;
  refused(invalid, "the prompt is empty", [](auto& r) { r.prompt.clear(); });
  refused(invalid, "n is 0", [](auto& r) { r.n = 0; });
  refused(invalid, "max_tokens is 0", [](auto& r) { r.max_tokens = 0; });
  refused(invalid, "min_tokens is 17", [](auto& r) { r.min_tokens = 17; });
  refused(invalid, "temperature is -1", [](auto& r) { r.sampling.temperature = -1; });
  refused(invalid, "fewer than the 1024 that model and cache",
          [](auto& r) { r.prompt = random_prompt(1024, 1); });
  refused(invalid, "prompt token 300 is outside of the vocabulary of 300 of the base",
          [](auto& r) { r.prompt[1] = 300; });
  refused(invalid, "stop id -1", [](auto& r) { r.stop_ids = {-1}; });
  refused(invalid, "logit_bias names token 400", [](auto& r) {
    r.sampling.logit_bias = {{400, 1.0}};
  });
  refused(invalid, "n is 2147483647", [](auto& r) { r.n = std::numeric_limits<int>::max(); });
  refused(invalid, "weight is 1e-09, expected 1e-06 to", [](auto& r) { r.weight = 1e-9; });
  refused(invalid, "the length of a stop text is 0, expected 1 to 1024 bytes: it is stop[1]",
          [](auto& r) {
            r.stop = {"x", ""};
          });
  refused(invalid, "a stop text is 1025", [](auto& r) { r.stop = {std::string(1025, 'x')}; });
  refused(invalid, "stop texts is 17", [](auto& r) { r.stop.assign(17, "x"); });
  refused(invalid, "stop ids is 1025", [](auto& r) { r.stop_ids.assign(1025, 1); });
  refused(invalid, "entries of logit_bias is 1025", [](auto& r) {
    r.sampling.logit_bias.assign(1025, {1, 1.0});
  });
  refused(ErrorCode::kUnsupported, "no tokenizer.json", [](auto& r) { r.stop = {"x"}; });
  refused(ErrorCode::kNotFound, "no variant \"none\"", [](auto& r) { r.variant = "none"; });
  EngineRequest full{.prompt = random_prompt(1020, 1), .max_tokens = 9};
  full.ignore_eos = true;
  EXPECT_EQ(engine.generate(full)[0].tokens.size(), 4u);  // to the end of the cache
}

TEST_F(EngineTest, QueuesAreBounded) {
  EngineOptions o = one_at_a_time();
  o.max_waiting = 3;
  o.max_waiting_per_tenant = 2;
  Engine engine(o);
  Collector running, a, b, c;
  EngineRequest r{.tenant = "t", .prompt = {5}, .max_tokens = 1500, .ignore_eos = true};
  const uint64_t id = engine.submit(r, running.handler());
  running.wait_for_events(1);
  engine.submit(r, a.handler());
  engine.submit(r, b.handler());
  test::expect_error(ErrorCode::kOverloaded, "of tenant \"t\"", [&] { engine.submit(r, {}); });
  r.tenant = "u";
  engine.submit(r, c.handler());
  r.tenant = "w";
  test::expect_error(ErrorCode::kOverloaded, "3 requests", [&] { engine.submit(r, {}); });
  engine.cancel(id);
  EXPECT_EQ(running.wait().back().finish, FinishReason::kCancelled);
  engine.stop(false);
  for (Collector* each : {&a, &b, &c})
    EXPECT_EQ(each->wait().back().finish, FinishReason::kCancelled);
  test::expect_error(ErrorCode::kOverloaded, "stopping", [&] { engine.submit(r, {}); });
  EXPECT_EQ(engine.stats().cancelled, 4);
}

TEST_F(EngineTest, AnswersThatNeverBeganAreCountedAsEmpty) {
  Engine engine(one_at_a_time());
  Collector running, waiting;
  EngineRequest r{.prompt = {5, 6}, .max_tokens = 2000, .ignore_eos = true};
  engine.submit(r, running.handler());
  r.n = 3;
  engine.cancel(engine.submit(r, waiting.handler()));
  for (const TokenEvent& event : waiting.wait(3)) {
    EXPECT_EQ(event.finish, FinishReason::kCancelled);
    EXPECT_EQ(event.prompt_tokens, 2);
    EXPECT_EQ(event.output_tokens, 0);
  }
}

TEST_F(EngineTest, ADeadlineEndsARequest) {
  Engine engine(one_at_a_time());
  Collector running, waiting;
  EngineRequest r{.prompt = {5}, .max_tokens = 2000, .ignore_eos = true};
  engine.submit(r, running.handler());
  r.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
  engine.submit(r, waiting.handler());
  EXPECT_EQ(waiting.wait().back().finish, FinishReason::kDeadline);
  EXPECT_EQ(engine.stats().expired, 1);
}

TEST_F(EngineTest, ASlowOrThrowingListenerHoldsUpNoStep) {
  Engine engine(options());
  std::promise<void> go_on;
  const std::shared_future<void> gate = go_on.get_future().share();
  engine.submit({.prompt = {5}, .max_tokens = 3, .ignore_eos = true},
                [gate](const TokenEvent&) { gate.wait(); });
  engine.submit({.prompt = {5}, .max_tokens = 2000, .ignore_eos = true},
                [](const TokenEvent&) { throw std::runtime_error("gone"); });
  Collector other;
  engine.submit({.prompt = {6}, .max_tokens = 50, .ignore_eos = true}, other.handler());
  while (engine.stats().steps < 60) std::this_thread::yield();  // nobody was told anything yet
  go_on.set_value();
  EXPECT_EQ(testing::tokens_of(other.wait()).size(), 50u);
  engine.stop();
  EXPECT_EQ(engine.stats().requests, 0);
}

TEST_F(EngineTest, StopsAtTextsAcrossTokens) {
  Engine engine({.base = testing::small_base(), .n_threads = 2, .kv_cache_bytes = 64 << 20});
  EngineRequest r{.prompt = engine.encode("", "### Instruction:"), .max_tokens = 40};
  r.sampling.temperature = 0;
  r.ignore_eos = true;
  const Answer whole = engine.generate(r)[0];
  ASSERT_GT(whole.text.size(), 12u);
  EXPECT_EQ(whole.text, engine.decode("", whole.tokens));
  const std::string stop = whole.text.substr(7, 5);
  const size_t at = whole.text.find(stop);
  r.stop = {stop};
  const Answer stopped = engine.generate(r)[0];
  EXPECT_EQ(stopped.finish, FinishReason::kStop);
  EXPECT_EQ(stopped.text, whole.text.substr(0, at));
  EXPECT_EQ(stopped.events.back().stop_text, stop);
  r.include_stop = true;
  EXPECT_EQ(engine.generate(r)[0].text, whole.text.substr(0, at + stop.size()));
}

}  // namespace
}  // namespace deltacome
