// SPDX-License-Identifier: Apache-2.0
// deltacome bench loads: cold starts of a variant while others decode.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "bench_options.h"
#include "file_cache.h"

namespace deltacome::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Options : BenchEngineOptions {
  std::string loaded;
  int repeats = 5;
  double pause_s = 2;     // before the first load and after each
  int64_t output = 2048;  // tokens of an answer that goes on meanwhile
  bool keep_file_cache = false;
};

/// A token of one of the answers that go on: when it came, and how long after the one before.
struct Gap {
  Clock::time_point at;
  double seconds;
};

/// Answers that are asked for again when they end.
class Streams {
 public:
  Streams(Engine& engine, const Options& options, std::vector<std::string> variants)
      : engine_(engine), options_(options), variants_(std::move(variants)) {
    last_.resize(variants_.size());
    for (size_t i = 0; i < variants_.size(); ++i) submit(i);
  }
  /// Events name it: the engine is stopped first.
  ~Streams() { engine_.stop(false); }
  Streams(const Streams&) = delete;
  Streams& operator=(const Streams&) = delete;
  void wait_until_all_run() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] {
      return failed_ ||
             std::ranges::none_of(last_, [](auto t) { return t == Clock::time_point(); });
    });
  }
  /// After Engine::stop(). Throws the error of an answer that failed.
  std::vector<Gap> gaps() {
    const std::lock_guard lock(mutex_);
    if (failed_) throw Error(*failed_);
    return gaps_;
  }

 private:
  void submit(size_t i) {
    engine_.submit(options_.request(variants_[i], ++n_submitted_, options_.output),
                   [this, i](const TokenEvent& event) { take(i, event); });
  }
  void take(size_t i, const TokenEvent& event) {
    const auto now = Clock::now();
    {
      const std::lock_guard lock(mutex_);
      if (event.error && event.error->code() != ErrorCode::kOverloaded) failed_ = event.error;
      const bool first = last_[i] == Clock::time_point() || begins_[i];
      if (event.token && !first)
        gaps_.push_back({now, std::chrono::duration<double>(now - last_[i]).count()});
      if (event.token) {
        last_[i] = now;
        begins_[i] = false;
      }
      if (event.finish == FinishReason::kLength) begins_[i] = true;
    }
    changed_.notify_all();
    if (event.finish != FinishReason::kLength) return;
    try {
      submit(i);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kOverloaded) throw;  // the run is at its end
    }
  }

  Engine& engine_;
  const Options& options_;
  const std::vector<std::string> variants_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Clock::time_point> last_;  // token, by answer
  std::vector<bool> begins_ = std::vector<bool>(variants_.size());
  std::vector<Gap> gaps_;
  std::optional<Error> failed_;
  std::atomic<uint64_t> n_submitted_ = 0;
};

/// A load, with a request that waits for it.
struct ColdStart {
  Clock::time_point asked = {}, loaded = {}, answered = {};
  double load_s() const { return std::chrono::duration<double>(loaded - asked).count(); }
  double first_token_s() const { return std::chrono::duration<double>(answered - asked).count(); }
};

ColdStart cold_start(Engine& engine, const Options& options, int turn) {
  const std::string name = "loaded";
  if (!options.keep_file_cache) drop_from_file_cache(options.loaded);
  ColdStart start{.asked = Clock::now()};
  const auto done = std::make_shared<std::promise<std::optional<Error>>>();
  engine.start_load(name, options.loaded, {}, [&start, done](const Error* error) {
    start.loaded = Clock::now();
    done->set_value(error == nullptr ? std::optional<Error>() : *error);
  });
  std::optional<Error> failed;
  try {
    engine.generate(options.request(name, static_cast<uint64_t>(turn) << 32, 1));
    start.answered = Clock::now();
  } catch (const Error& error) {
    failed = error;
  }
  if (const std::optional<Error> error = done->get_future().get()) throw Error(*error);
  if (failed) throw Error(*failed);
  engine.unload(name);
  return start;
}

/// Gaps by what went on at their time.
struct Gaps {
  std::vector<double> quiet, loading, first_token;
};

Gaps sort_gaps(const std::vector<Gap>& gaps, const std::vector<ColdStart>& starts) {
  Gaps out;
  for (const Gap& gap : gaps) {
    const auto began = gap.at - std::chrono::duration_cast<Clock::duration>(
                                    std::chrono::duration<double>(gap.seconds));
    const auto within = [&](Clock::time_point ColdStart::*from, Clock::time_point ColdStart::*to) {
      return std::ranges::any_of(
          starts, [&](const ColdStart& s) { return gap.at > s.*from && began < s.*to; });
    };
    (within(&ColdStart::loaded, &ColdStart::answered) ? out.first_token
     : within(&ColdStart::asked, &ColdStart::loaded)  ? out.loading
                                                      : out.quiet)
        .push_back(gap.seconds);
  }
  return out;
}

void bench_loads(const Options& options) {
  Engine engine(options.engine_options());
  std::vector<std::string> variants;
  for (const std::string& delta : options.deltas) {
    variants.push_back(fmt::format("variant{}", variants.size()));
    engine.load(variants.back(), delta);
  }
  Streams streams(engine, options, variants);
  streams.wait_until_all_run();
  const std::chrono::duration<double> pause(options.pause_s);
  std::this_thread::sleep_for(pause);
  std::vector<ColdStart> starts;
  for (int turn = 0; turn < options.repeats; ++turn) {
    starts.push_back(cold_start(engine, options, turn));
    std::this_thread::sleep_for(pause);
  }
  const EngineStats stats = engine.stats();
  engine.stop(false);

  std::vector<double> loads, cold;
  for (const ColdStart& start : starts) {
    loads.push_back(start.load_s());
    cold.push_back(start.first_token_s());
  }
  const Gaps gaps = sort_gaps(streams.gaps(), starts);
  const auto before = distribution(gaps.quiet), meanwhile = distribution(gaps.loading);
  const double base = before["p99"].get<double>();
  print_report({{"device", engine.device()},
                {"answers_meanwhile", variants.size()},
                {"variant_bytes", stats.variant_bytes},
                {"file_cache", options.keep_file_cache ? "kept" : "dropped before each load"},
                {"loads", loads.size()},
                {"load_s", distribution(loads)},
                {"cold_start_s", distribution(cold)},
                {"step_s", before},
                {"step_while_loading_s", meanwhile},
                {"step_of_first_token_s", distribution(gaps.first_token)},
                {"p99_ratio", base == 0 ? 0 : meanwhile["p99"].get<double>() / base}},
               options.json);
}

}  // namespace

void add_bench_loads(CLI::App& bench) {
  const auto o = std::make_shared<Options>();
  CLI::App* c = bench.add_subcommand(
      "loads", "Cold starts of a variant while every --delta has an answer that goes on");
  add_bench_engine_options(*c, *o);
  add_path(*c, "--load", o->loaded, "Archive or adapter whose first token is waited for")
      ->required();
  c->add_option("--repeats", o->repeats, "Loads; default 5")->check(integer_in(1, 1 << 20));
  c->add_option("--pause", o->pause_s, "Seconds without a load before and after each; default 2")
      ->check(number_in(0, 1e6));
  c->add_option("--output", o->output, "Tokens of the answers that go on; default 2048")
      ->check(integer_in(2, 1 << 24));
  c->add_flag("--keep-file-cache", o->keep_file_cache,
              "Files may be in memory; otherwise they are read from the disk");
  c->callback([o] { bench_loads(*o); });
}

}  // namespace deltacome::cli
