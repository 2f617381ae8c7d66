// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>

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
  /// Cancels what goes on. submit() throws kOverloaded from now on.
  virtual void stop() = 0;
  /// As Engine::start_load(), with `replace`.
  virtual void start_load(const std::string& name, const std::string& path,
                          Engine::DoneHandler done) = 0;
  virtual EngineStats stats() const = 0;
  virtual std::string device() const = 0;
};

/// One engine that has all variants.
class EngineServer : public TraceServer {
 public:
  explicit EngineServer(const EngineOptions& options) : engine_(options) {}
  Engine& engine() { return engine_; }

  void submit(EngineRequest request, Engine::EventHandler on_event) override {
    engine_.submit(std::move(request), std::move(on_event));
  }
  void stop() override { engine_.stop(false); }
  void start_load(const std::string& name, const std::string& path,
                  Engine::DoneHandler done) override {
    engine_.start_load(name, path, {.replace = true}, std::move(done));
  }
  EngineStats stats() const override { return engine_.stats(); }
  std::string device() const override { return engine_.device(); }

 private:
  Engine engine_;
};

}  // namespace deltacome::cli
