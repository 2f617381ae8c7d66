// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "trace_server.h"

namespace deltacome::cli {

/// What one does without deltas: each variant is a whole model, of which memory holds a few. A
/// request whose model is in memory joins its batch; the oldest of the others gets its model in the
/// place of the one that is idle longest, or else of the one with the fewest answers left, which
/// takes no new ones meanwhile. A model that leaves takes its pages of the file cache along: memory
/// that holds them is memory that was said not to be there.
class SwappedModels : public TraceServer {
 public:
  /// `models`: directories by the name that requests give, at least `slots`. Each of the `slots`
  /// engines has its share of the threads and of the memory for keys and values. Throws Error.
  SwappedModels(EngineOptions options, std::map<std::string, std::filesystem::path> models,
                int slots);
  ~SwappedModels() override;

  void submit(EngineRequest request, Engine::EventHandler on_event) override;
  void cancel_all() override;
  void stop() override;
  /// Throws kUnsupported.
  void start_load(const std::string& name, const std::string& path,
                  Engine::DoneHandler done) override;
  EngineStats stats() const override;
  std::vector<double> load_times() const override;
  std::string device() const override { return device_; }

 private:
  struct Waiting {
    EngineRequest request;
    Engine::EventHandler on_event;
  };
  struct Slot {
    std::string model;
    std::unique_ptr<Engine> engine;  // null while it is swapped
    int64_t running = 0;
    std::vector<uint64_t> submitted;  // to this engine; ended ones too
    uint64_t last_used = 0;
    bool closing = false;  // until it has another model
  };

  void run_swapper();
  std::unique_ptr<Engine> open(const std::string& model) const;
  /// The slot for another model, which takes no requests from now on; null while it has some left.
  Slot* free_slot();
  void start(Slot& slot, Waiting waiting);
  static void end(std::deque<Waiting> waiting, FinishReason reason,
                  std::optional<Error> error = {});
  void fail_waiting(std::unique_lock<std::mutex> lock, const Error& error);

  const EngineOptions options_;
  const std::map<std::string, std::filesystem::path> models_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Waiting> waiting_;  // oldest first
  std::vector<Slot> slots_;
  EngineStats ended_;  // of engines that are gone
  std::vector<double> load_times_;
  std::string device_;
  uint64_t clock_ = 0;
  bool stopping_ = false;
  std::thread swapper_;
};

}  // namespace deltacome::cli
