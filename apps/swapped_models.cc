// SPDX-License-Identifier: Apache-2.0
#include "swapped_models.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <tuple>
#include <utility>

#include "file_cache.h"

namespace deltacome::cli {
namespace {

/// What an engine has counted.
void add(EngineStats& sum, const EngineStats& s) {
  sum.steps += s.steps;
  sum.prompt_tokens += s.prompt_tokens;
  sum.output_tokens += s.output_tokens;
  sum.preemptions += s.preemptions;
  sum.prefix_queries += s.prefix_queries;
  sum.prefix_hits += s.prefix_hits;
}

EngineOptions share_of(EngineOptions options, int slots) {
  if (options.n_threads == 0)
    options.n_threads = static_cast<int>(std::thread::hardware_concurrency());
  options.n_threads = std::max(1, options.n_threads / slots);
  options.kv_cache_bytes /= slots;
  options.device_memory_bytes /= slots;
  options.variant_bytes = 0;
  return options;
}

}  // namespace

SwappedModels::SwappedModels(EngineOptions options,
                             std::map<std::string, std::filesystem::path> models, int slots)
    : options_(share_of(std::move(options), slots)),
      models_(std::move(models)),
      slots_(static_cast<size_t>(slots)) {
  for (const auto& [_, path] : models_) drop_from_file_cache(path);
  auto model = models_.begin();
  for (Slot& slot : slots_) {
    slot.model = model++->first;
    slot.engine = open(slot.model);
  }
  device_ = fmt::format("{}; {} of {} whole models in memory", slots_.front().engine->device(),
                        slots, models_.size());
  swapper_ = std::thread([this] { run_swapper(); });
}

SwappedModels::~SwappedModels() {
  stop();
}

std::unique_ptr<Engine> SwappedModels::open(const std::string& model) const {
  EngineOptions options = options_;
  options.base = models_.at(model);
  return std::make_unique<Engine>(options);
}

void SwappedModels::submit(EngineRequest request, Engine::EventHandler on_event) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) throw Error(ErrorCode::kOverloaded, "the run is at its end");
    if (!models_.contains(request.variant))
      throw Error(ErrorCode::kNotFound, fmt::format("no model \"{}\"", request.variant));
    const auto slot = std::ranges::find(slots_, request.variant, &Slot::model);
    if (slot != slots_.end() && !slot->closing)
      return start(*slot, {std::move(request), std::move(on_event)});
    waiting_.push_back({std::move(request), std::move(on_event)});
  }
  changed_.notify_all();
}

/// Requires the mutex, which events take too, later and on another thread.
void SwappedModels::start(Slot& slot, Waiting waiting) {
  waiting.request.variant.clear();
  ++slot.running;
  slot.last_used = ++clock_;
  const auto told = [this, &slot, on_event = std::move(waiting.on_event)](const TokenEvent& event) {
    on_event(event);
    if (event.finish == FinishReason::kNone) return;
    {
      const std::lock_guard lock(mutex_);
      --slot.running;
    }
    changed_.notify_all();
  };
  slot.submitted.push_back(slot.engine->submit(std::move(waiting.request), told));
}

/// Requires the mutex.
SwappedModels::Slot* SwappedModels::free_slot() {
  Slot* const least = &*std::ranges::min_element(
      slots_, {}, [](const Slot& s) { return std::tuple(!s.closing, s.running, s.last_used); });
  least->closing = true;
  return least->running == 0 ? least : nullptr;
}

void SwappedModels::run_swapper() {
  std::unique_lock lock(mutex_);
  for (;;) {
    Slot* slot = nullptr;
    changed_.wait(lock, [&] {
      if (!stopping_ && !waiting_.empty()) slot = free_slot();
      return stopping_ || slot != nullptr;
    });
    if (stopping_) return;
    const std::string leaves = std::exchange(slot->model, waiting_.front().request.variant);
    slot->submitted.clear();
    std::unique_ptr<Engine> engine = std::move(slot->engine);
    lock.unlock();
    const auto began = std::chrono::steady_clock::now();
    const EngineStats stats = engine->stats();
    engine.reset();
    drop_from_file_cache(models_.at(leaves));
    std::optional<Error> error;
    try {
      engine = open(slot->model);
    } catch (const Error& e) {
      error = e;
    }
    lock.lock();
    if (error) return fail_waiting(std::move(lock), *error);
    slot->engine = std::move(engine);
    slot->submitted.clear();
    slot->closing = false;
    add(ended_, stats);
    ++ended_.loads;
    load_times_.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    std::deque<Waiting> others;
    for (Waiting& w : waiting_)
      w.request.variant == slot->model ? start(*slot, std::move(w))
                                       : others.push_back(std::move(w));
    waiting_ = std::move(others);
  }
}

/// A model that cannot be opened ends the run.
void SwappedModels::fail_waiting(std::unique_lock<std::mutex> lock, const Error& error) {
  stopping_ = true;
  std::deque<Waiting> left;
  left.swap(waiting_);
  lock.unlock();
  end(std::move(left), FinishReason::kError, error);
}

void SwappedModels::end(std::deque<Waiting> waiting, FinishReason reason,
                        std::optional<Error> error) {
  TokenEvent event;
  event.error = std::move(error);
  event.finish = reason;
  for (const Waiting& w : waiting) w.on_event(event);
}

void SwappedModels::cancel_all() {
  std::deque<Waiting> left;
  {
    const std::lock_guard lock(mutex_);
    left.swap(waiting_);
    for (Slot& slot : slots_) {
      for (const uint64_t id : slot.submitted) slot.engine->cancel(id);
      slot.submitted.clear();
    }
  }
  end(std::move(left), FinishReason::kCancelled);
}

void SwappedModels::stop() {
  fail_waiting(std::unique_lock(mutex_), Error(ErrorCode::kOverloaded, "the run was stopped"));
  changed_.notify_all();
  if (swapper_.joinable()) swapper_.join();
  for (const Slot& slot : slots_) {
    if (slot.engine != nullptr) slot.engine->stop(false);
  }
}

void SwappedModels::start_load(const std::string& name, const std::string& /*path*/,
                               Engine::DoneHandler /*done*/) {
  throw Error(ErrorCode::kUnsupported,
              fmt::format("\"{}\": whole models are loaded by their requests only", name));
}

std::vector<double> SwappedModels::load_times() const {
  const std::lock_guard lock(mutex_);
  return load_times_;
}

EngineStats SwappedModels::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats sum = ended_;
  for (const Slot& slot : slots_) {
    if (slot.engine == nullptr) continue;
    const EngineStats s = slot.engine->stats();
    add(sum, s);
    sum.base_bytes += s.base_bytes;
    sum.kv_bytes += s.kv_bytes;
  }
  sum.evictions = sum.loads;  // every model takes another one's place
  return sum;
}

}  // namespace deltacome::cli
