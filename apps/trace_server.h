// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "deltacome/engine.h"

namespace deltacome::cli {

/// What a trace is run through. All members may be called from any thread.
class TraceServer {
 public:
  TraceServer() = default;
  virtual ~TraceServer() = default;
  TraceServer(const TraceServer&) = delete;
  TraceServer& operator=(const TraceServer&) = delete;

  virtual void submit(EngineRequest request, Engine::EventHandler on_event) = 0;
  /// Ends what has been submitted; the events of its end come as any.
  virtual void cancel_all() = 0;
  /// Cancels what goes on. submit() throws kOverloaded from now on.
  virtual void stop() = 0;
  /// As Engine::start_load(), with `replace`.
  virtual void start_load(const std::string& name, const std::string& path,
                          Engine::DoneHandler done) = 0;
  virtual EngineStats stats() const = 0;
  /// Seconds that it took to bring in each model that requests asked for.
  virtual std::vector<double> load_times() const { return {}; }
  virtual std::string device() const = 0;
};

/// One engine that has all variants.
class EngineServer : public TraceServer {
 public:
  explicit EngineServer(const EngineOptions& options) : engine_(options) {}
  Engine& engine() { return engine_; }

  void submit(EngineRequest request, Engine::EventHandler on_event) override {
    const uint64_t id = engine_.submit(std::move(request), std::move(on_event));
    const std::lock_guard lock(mutex_);
    submitted_.push_back(id);
  }
  void cancel_all() override {
    std::vector<uint64_t> ids;
    {
      const std::lock_guard lock(mutex_);
      ids.swap(submitted_);
    }
    for (const uint64_t id : ids) engine_.cancel(id);
  }
  void stop() override { engine_.stop(false); }
  void start_load(const std::string& name, const std::string& path,
                  Engine::DoneHandler done) override {
    engine_.start_load(name, path, {.replace = true}, std::move(done));
  }
  EngineStats stats() const override { return engine_.stats(); }
  std::string device() const override { return engine_.device(); }

 private:
  std::mutex mutex_;
  std::vector<uint64_t> submitted_;  // since the last cancel_all(); ended ones too
  Engine engine_;
};

}  // namespace deltacome::cli
