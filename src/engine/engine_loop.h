// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "deltacome/engine.h"
#include "engine/constraints.h"
#include "engine/deliveries.h"
#include "engine/step_runner.h"

namespace deltacome {

/// The engine thread and the queues by which others talk to it. Everything that a step touches is
/// the engine thread's; others leave plain values in the inbox (E1).
class EngineLoop {
 public:
  /// `base_text` is not null, but may lack a tokenizer. `store`, `deliveries` and `model` outlive
  /// it.
  EngineLoop(const EngineOptions& options, const Model& model, VariantStore& store,
             std::shared_ptr<const TextAssets> base_text, VariantVision base_vision,
             Deliveries& deliveries);
  /// As stop(false).
  ~EngineLoop();

  /// Throws kInvalidArgument for what no variant could make good.
  void check(const EngineRequest& request) const;
  uint64_t submit(EngineRequest request, Engine::EventHandler on_event);
  void cancel(uint64_t request);
  void poke();  // something that waiting sequences wait for has happened
  void stop(bool drain);

  EngineStats stats() const;
  int64_t max_context() const noexcept;

 private:
  using Clock = std::chrono::steady_clock;

  // Any thread.
  std::shared_ptr<grammar::TokenMasks> masks_of(const Constraint& constraint,
                                                const TextAssets& text);
  void count_waiting(const std::string& tenant);
  PictureFormat picture_format(const std::string& variant) const;

  // The engine thread.
  void run();
  bool turn();
  bool read_inbox();
  void start(std::unique_ptr<RequestState>& state);
  void expire();
  bool step();
  bool bind(AnswerState& answer);
  void bind_to(AnswerState& answer);
  void take(const StepToken& token);
  void add_followers(RequestState& request);
  void end(AnswerState& answer, FinishReason reason, TokenEvent event = {});
  void end_all(RequestState& request, FinishReason reason, const Error* error = nullptr);
  void end_for_memory(RequestState& request);
  void count_step(std::span<const StepItem> items);
  void fail_step(std::span<const StepItem> items, const Error& error);
  void break_down(ErrorCode code, const char* what) noexcept;
  void emit(const RequestState& request, TokenEvent event);
  void forget_finished();
  void mark_begun(RequestState& request);
  void update_stats();
  double now_s() const;

  const EngineOptions options_;
  const Model& model_;
  VariantStore& store_;
  std::shared_ptr<const TextAssets> base_text_;
  VariantVision base_vision_;
  Deliveries& deliveries_;
  ConstraintCache constraints_;
  std::unique_ptr<Stream> stream_;
  int64_t n_blocks_;
  StepRunner runner_;
  Towers towers_;
  Scheduler scheduler_;
  const Clock::time_point start_ = Clock::now();

  std::unordered_map<uint64_t, std::unique_ptr<RequestState>> requests_;
  std::set<std::pair<Clock::time_point, uint64_t>> deadlines_;
  std::vector<std::unique_ptr<RequestState>> inbox_;  // those that are null have been started
  std::vector<uint64_t> finished_;                    // has room for all of requests_
  std::vector<AnswerState*> faulty_;
  std::vector<Deliveries::Call> outbox_;
  uint64_t next_sequence_ = 1;
  int64_t n_forgotten_ = 0;   // requests whose end has to be counted in n_requests_
  bool broken_down_ = false;  // nothing is known of the scheduler: it is not asked any more
  EngineStats counts_;

  mutable std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::vector<std::unique_ptr<RequestState>> submitted_;
  std::vector<uint64_t> cancelled_;
  std::map<std::string, int64_t> waiting_;  // requests that have not begun, by tenant
  int64_t n_waiting_ = 0;
  int64_t n_requests_ = 0;
  uint64_t next_request_ = 1;
  bool poked_ = false;
  bool closed_ = false;    // takes no more requests
  bool stopping_ = false;  // cancels those it has
  std::optional<Error> broken_;
  EngineStats stats_;
  std::thread thread_;
};

}  // namespace deltacome
