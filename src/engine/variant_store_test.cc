// SPDX-License-Identifier: Apache-2.0
// The variants of an engine: life cycle, budgets, failures.
#include <gtest/gtest.h>

#include <fstream>
#include <future>

#include "deltacome/model.h"
#include "engine/test_support.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;
using testing::Collector;
using testing::random_prompt;

class VariantStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (uint32_t i = 0; i < 4; ++i) testing::write_archive(directory_ / name(i), 50 + i);
  }
  static std::string name(uint32_t i) { return std::string(1, static_cast<char>('a' + i)); }

  /// Room for `n` archives, with a tenth of one for what the backend adds.
  EngineOptions options(double n = 100) const {
    EngineOptions o{.base = testing::tiny_base(), .n_threads = 2, .kv_cache_bytes = 8 << 20};
    o.variant_bytes = static_cast<int64_t>(
        (n + 0.5) * static_cast<double>(testing::archive_bytes(directory_ / "a")));
    return o;
  }
  static EngineRequest request(const std::string& variant, int64_t max_tokens = 4) {
    EngineRequest r;
    r.variant = variant;
    r.prompt = random_prompt(12, 1);
    r.max_tokens = max_tokens;
    r.sampling.temperature = 0;
    r.ignore_eos = true;
    return r;
  }
  static VariantStatus status(const Engine& engine, const std::string& name) {
    for (const VariantStatus& s : engine.variants())
      if (s.name == name) return s;
    ADD_FAILURE() << name << " is not listed";
    return {};
  }
  static std::vector<int32_t> tokens(Engine& engine, const std::string& variant) {
    return engine.generate(request(variant, 12))[0].tokens;
  }
  void expect_load_error(Engine& engine, ErrorCode code, const std::string& part,
                         const std::string& as, const fs::path& path,
                         const LoadOptions& o = {}) const {
    test::expect_error(code, part, [&] { engine.load(as, path, o); });
  }

  const test::TempDir directory_;
};

TEST_F(VariantStoreTest, ListsWhatIsLoadedAndWhatItTakes) {
  Engine engine(options());
  engine.load("a", directory_ / "a", {.pinned = true});
  engine.load("b", directory_ / "b", {.lazy = true});
  const VariantStatus a = status(engine, "a"), b = status(engine, "b");
  EXPECT_EQ(a.state, VariantState::kReady);
  EXPECT_TRUE(a.pinned);
  EXPECT_GE(a.bytes, testing::archive_bytes(directory_ / "a"));
  EXPECT_EQ(a.content_hash, Archive::open(directory_ / "a").content_hash());
  EXPECT_EQ(b.state, VariantState::kOnDisk);
  EXPECT_EQ(b.bytes, 0);
  EXPECT_EQ(engine.stats().variant_bytes, a.bytes);
  EXPECT_NE(tokens(engine, "a"), tokens(engine, "b"));  // loads it
  EXPECT_EQ(status(engine, "b").state, VariantState::kReady);
  engine.unload("a");
  engine.unload("b");
  EXPECT_TRUE(engine.variants().empty());
  EXPECT_EQ(engine.stats().variant_bytes, 0);
  test::expect_error(ErrorCode::kNotFound, "no variant \"a\"", [&] { engine.unload("a"); });
  test::expect_error(ErrorCode::kNotFound, "no variant \"a\"", [&] { tokens(engine, "a"); });
}

TEST_F(VariantStoreTest, KeepsTheBudgetAndBringsBackWhatWasThrownOut) {
  Engine engine(options(2));
  std::vector<std::vector<int32_t>> first;
  for (uint32_t i = 0; i < 4; ++i) {
    engine.load(name(i), directory_ / name(i));
    first.push_back(tokens(engine, name(i)));
    EXPECT_LE(engine.stats().variant_bytes, options(2).variant_bytes);
  }
  EXPECT_EQ(engine.stats().evictions, 2);
  EXPECT_EQ(status(engine, "a").state, VariantState::kOnDisk);
  EXPECT_EQ(tokens(engine, "a"), first[0]);
  EXPECT_EQ(status(engine, "c").state, VariantState::kOnDisk);  // the longest unused
  EXPECT_EQ(status(engine, "d").state, VariantState::kReady);
}

TEST_F(VariantStoreTest, PinnedVariantsStay) {
  Engine engine(options(2));
  engine.load("a", directory_ / "a", {.pinned = true});
  for (uint32_t i = 1; i < 4; ++i) engine.load(name(i), directory_ / name(i));
  EXPECT_EQ(status(engine, "a").state, VariantState::kReady);
  engine.set_pinned("d", true);
  expect_load_error(engine, ErrorCode::kOutOfMemory, "are pinned", "e", directory_ / "b");
  EXPECT_EQ(engine.variants().size(), 4u);
  test::expect_error(ErrorCode::kOutOfMemory, "variant \"b\" needs", [&] { tokens(engine, "b"); });
  engine.set_pinned("a", false);
  tokens(engine, "b");
  EXPECT_EQ(status(engine, "a").state, VariantState::kOnDisk);
}

TEST_F(VariantStoreTest, AllInUseOneMustLeaveForTheOneThatIsAskedFor) {
  EngineOptions o = options(1);
  o.max_sequences = 4;
  Engine engine(o);
  engine.load("a", directory_ / "a");
  engine.load("b", directory_ / "b", {.lazy = true});
  // Requests for a follow each other without a gap; b still has its turn (E6). They are many,
  // because the loader, being nice, may be late on a machine with other work.
  std::vector<std::unique_ptr<Collector>> busy;
  for (int i = 0; i < 150; ++i) {
    busy.push_back(std::make_unique<Collector>());
    engine.submit(request("a", 40), busy.back()->handler());
  }
  busy[0]->wait_for_events(1);
  const std::vector<int32_t> got = tokens(engine, "b");
  EXPECT_GT(engine.stats().requests, 0) << "b waited for every request of a";
  for (const auto& each : busy) EXPECT_EQ(each->wait().back().finish, FinishReason::kLength);
  Engine calm(options());
  calm.load("b", directory_ / "b");
  EXPECT_EQ(got, tokens(calm, "b"));
}

TEST_F(VariantStoreTest, AReplacementServesWhatComesAndLeavesWhatRuns) {
  Engine engine(options());
  engine.load("x", directory_ / "a");
  const std::vector<int32_t> of_a = engine.generate(request("x", 300))[0].tokens;
  Collector running;
  engine.submit(request("x", 300), running.handler());
  running.wait_for_events(1);
  engine.load("x", directory_ / "b", {.replace = true});
  const Answer fresh = engine.generate(request("x", 300))[0];
  EXPECT_EQ(testing::tokens_of(running.wait()), of_a);
  EXPECT_NE(fresh.tokens, of_a);
  EXPECT_EQ(fresh.events.back().variant_hash, Archive::open(directory_ / "b").content_hash());
  engine.stop();
  EXPECT_EQ(engine.stats().variant_bytes, status(engine, "x").bytes);
}

TEST_F(VariantStoreTest, UnloadRefusesOrDrains) {
  Engine engine(options());
  engine.load("a", directory_ / "a");
  Collector running, queued;
  engine.submit(request("a", 400), running.handler());
  running.wait_for_events(1);
  test::expect_error(ErrorCode::kInvalidArgument, "variant \"a\" is in use: 1 request",
                     [&] { engine.unload("a", UnloadMode::kRefuse); });
  std::promise<void> gone;
  engine.start_unload("a", UnloadMode::kDrain, [&](const Error*) { gone.set_value(); });
  EXPECT_EQ(status(engine, "a").state, VariantState::kDraining);
  test::expect_error(ErrorCode::kNotFound, "being unloaded", [&] { tokens(engine, "a"); });
  expect_load_error(engine, ErrorCode::kOverloaded, "being unloaded", "a", directory_ / "a");
  EXPECT_EQ(testing::tokens_of(running.wait()).size(), 400u);
  gone.get_future().wait();
  EXPECT_TRUE(engine.variants().empty());
}

TEST_F(VariantStoreTest, AFailedLoadSaysWhyAndChangesNothing) {
  Engine engine(options());
  engine.load("a", directory_ / "a");
  const std::vector<int32_t> before = tokens(engine, "a");
  const int64_t bytes = engine.stats().variant_bytes;

  testing::corrupt(directory_ / "b" / "delta.safetensors");
  testing::corrupt(directory_ / "c" / "config.json");
  const fs::path other = directory_ / "other";
  testing::write_archive(other, 1, fs::path(DELTACOME_SOURCE_DIR) / "tests/data/goldens/mistral");
  const fs::path cut = directory_ / "d" / "delta.safetensors";
  fs::resize_file(cut, fs::file_size(cut) / 2);
  for (const bool replace : {false, true}) {
    const std::string as = replace ? "a" : "new";
    const LoadOptions o{.replace = replace};
    expect_load_error(engine, ErrorCode::kCorrupt, "SHA-256", as, directory_ / "b", o);
    expect_load_error(engine, ErrorCode::kCorrupt, "config.json", as, directory_ / "c", o);
    expect_load_error(engine, ErrorCode::kCorrupt, "delta.safetensors", as, directory_ / "d", o);
    expect_load_error(engine, ErrorCode::kMismatch, "was made from base", as, other, o);
    expect_load_error(engine, ErrorCode::kNotFound, "no such directory", as, directory_ / "no", o);
  }
  expect_load_error(engine, ErrorCode::kInvalidArgument, "loaded already", "a", directory_ / "a");
  expect_load_error(engine, ErrorCode::kInvalidArgument, "needs a name", "", directory_ / "a");
  EXPECT_EQ(engine.variants().size(), 1u);
  EXPECT_EQ(engine.stats().failed_loads, 10);
  EXPECT_EQ(engine.stats().variant_bytes, bytes);
  EXPECT_EQ(tokens(engine, "a"), before);
}

TEST_F(VariantStoreTest, WhatWasLoadedNeedsNoFilesAnyMore) {
  Engine engine(options());
  engine.load("a", directory_ / "a");
  const std::vector<int32_t> before = tokens(engine, "a");
  // In place, as a careless copy would: a mapping of the file would see it.
  const fs::path file = directory_ / "a" / "delta.safetensors";
  std::ofstream(file, std::ios::binary | std::ios::trunc) << "short";
  EXPECT_EQ(tokens(engine, "a"), before);
}

TEST_F(VariantStoreTest, ARequestThatNeedsALoadThatFailsIsToldWhy) {
  Engine engine(options(1));
  engine.load("a", directory_ / "a", {.lazy = true});
  testing::corrupt(directory_ / "a" / "delta.safetensors");
  test::expect_error(ErrorCode::kCorrupt, "SHA-256", [&] { tokens(engine, "a"); });
  EXPECT_NE(status(engine, "a").last_error.find("SHA-256"), std::string::npos);
  testing::corrupt(directory_ / "a" / "delta.safetensors");  // back again
  EXPECT_EQ(tokens(engine, "a").size(), 12u);
  EXPECT_EQ(status(engine, "a").last_error, "");
}

TEST_F(VariantStoreTest, AdaptersAreServedBesideArchives) {
  testing::write_adapter(directory_ / "lora", 8);
  testing::write_adapter(directory_ / "twice", 16);  // the same tensors at another scale
  Engine engine(options());
  for (const char* each : {"a", "lora", "twice"}) engine.load(each, directory_ / each);
  const std::vector<int32_t> base = tokens(engine, ""), lora = tokens(engine, "lora");
  EXPECT_NE(lora, base);
  EXPECT_NE(lora, tokens(engine, "a"));
  EXPECT_NE(status(engine, "lora").content_hash, status(engine, "twice").content_hash);
  std::vector<std::unique_ptr<Collector>> mixed;
  for (const char* each : {"lora", "", "a", "twice"}) {
    mixed.push_back(std::make_unique<Collector>());
    engine.submit(request(each, 12), mixed.back()->handler());
  }
  EXPECT_EQ(testing::tokens_of(mixed[0]->wait()), lora);
  EXPECT_EQ(testing::tokens_of(mixed[1]->wait()), base);
  testing::corrupt(directory_ / "twice" / "adapter_config.json", 3);
  expect_load_error(engine, ErrorCode::kCorrupt, "adapter_config.json", "bad",
                    directory_ / "twice");
}

/// Replaces the first `from` in a file.
void edit(const fs::path& file, const std::string& from, const std::string& to) {
  std::string text = read_text_file(file);
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  write_file_atomically(file, text.replace(at, from.size(), to));
}

TEST_F(VariantStoreTest, AVariantHasItsOwnVocabularyAndEnds) {
  const fs::path tuned = directory_ / "tuned";
  fs::copy(testing::tiny_base(), tuned);
  edit(tuned / "config.json", "\"vocab_size\": 300", "\"vocab_size\": 302");
  for (const char* file : {"config.json", "generation_config.json"})
    edit(tuned / file, "\"eos_token_id\": 2", "\"eos_token_id\": 301");
  testing::write_archive(directory_ / "grown", 8, testing::tiny_base(), tuned);
  Engine engine(options());
  engine.load("grown", directory_ / "grown");
  EngineRequest r;
  r.prompt = {5, 300, 6};
  r.max_tokens = 9;
  r.sampling.temperature = 0;
  r.sampling.logit_bias = {{299, 1000.0}};
  test::expect_error(ErrorCode::kInvalidArgument, "prompt token 300 is outside of the vocabulary",
                     [&] { engine.generate(r); });
  r.variant = "grown";
  EXPECT_EQ(engine.generate(r)[0].tokens, std::vector<int32_t>(9, 299));
  r.sampling.logit_bias = {{301, 1000.0}};
  const Answer ended = engine.generate(r)[0];
  EXPECT_EQ(ended.events.back().stop_id, 301);
  r.min_tokens = 4;  // until then the end cannot be chosen
  EXPECT_EQ(engine.generate(r)[0].tokens.size(), 4u);
  r.sampling.logit_bias = {{2, 1000.0}};  // the base's end is an ordinary token here
  EXPECT_EQ(engine.generate(r)[0].tokens, std::vector<int32_t>(9, 2));
}

/// config.json with another vocabulary, and a manifest that says it is right.
void claim_vocabulary(const fs::path& archive, int64_t from, int64_t to) {
  const auto hash = [&] {
    const std::string text = read_text_file(archive / "config.json");
    return sha256_hex(std::as_bytes(std::span(text)));
  };
  const std::string before = hash();
  edit(archive / "config.json", fmt::format("\"vocab_size\": {}", from),
       fmt::format("\"vocab_size\": {}", to));
  edit(archive / "MANIFEST.sha256", before, hash());
}

/// A token that only config.json knows would be looked up beyond the embedding's rows.
TEST_F(VariantStoreTest, AVocabularyThatTheTensorsDoNotHaveIsRefused) {
  const fs::path tuned = directory_ / "tuned", grown = directory_ / "grown";
  fs::copy(testing::tiny_base(), tuned);
  edit(tuned / "config.json", "\"vocab_size\": 300", "\"vocab_size\": 302");
  testing::write_archive(grown, 8, testing::tiny_base(), tuned);
  claim_vocabulary(grown, 302, 300);
  claim_vocabulary(directory_ / "a", 300, 301);
  claim_vocabulary(directory_ / "b", 300, 100);
  Engine engine(options());
  const auto refused = [&](const fs::path& path, const std::string& part) {
    expect_load_error(engine, ErrorCode::kMismatch, part, "new", path);
    test::expect_error(ErrorCode::kMismatch, part, [&] {
      LanguageModel::open({.model = testing::tiny_base(), .delta = path, .n_threads = 1});
    });
  };
  refused(directory_ / "a", "vocab_size is 301, expected 300, the rows of the base's tensor");
  refused(directory_ / "b", "vocab_size is 100, expected 300, the rows of the base's tensor");
  refused(grown, "vocab_size is 300, expected 302, the rows of the archive's tensor");
}

TEST_F(VariantStoreTest, VariantsOfEqualTokenizersHaveTheirOwnText) {
  const fs::path base = testing::small_base();
  testing::write_archive(directory_ / "text", 9, base);
  fs::path other = directory_ / "other-base";
  fs::copy(base, other);
  write_file_atomically(other / "chat_template.jinja", "<{{ messages[0]['content'] }}>");
  testing::write_archive(directory_ / "chat", 10, other);
  EngineOptions o = options();
  o.base = base;
  o.variant_bytes = 64 << 20;
  o.kv_cache_bytes = 16 << 20;
  Engine engine(o);
  engine.load("text", directory_ / "text");
  engine.load("chat", directory_ / "chat", {.lazy = true});
  EXPECT_EQ(engine.encode("text", "1 + 2"), engine.encode("", "1 + 2"));
  EXPECT_EQ(engine.chat_prompt("chat", {{"user", "hi"}}), "<hi>");
  EXPECT_EQ(engine.chat_prompt_json("chat", R"({"messages": [{"role": "user", "content": "x"}]})"),
            "<x>");
}

TEST_F(VariantStoreTest, StoppingGivesUpLoads) {
  auto engine = std::make_unique<Engine>(options());
  std::atomic<int> told = 0;
  for (uint32_t i = 0; i < 4; ++i)
    engine->start_load(name(i), directory_ / name(i), {}, [&](const Error*) { ++told; });
  engine.reset();
  EXPECT_EQ(told, 4);
}

}  // namespace
}  // namespace deltacome
