// SPDX-License-Identifier: Apache-2.0
// EngineLoop: one step, and the accounts of it. All on the engine thread.
#include <algorithm>
#include <new>

#include "core/check.h"
#include "engine/engine_loop.h"

namespace deltacome {

bool EngineLoop::step() {
  const std::vector<StepItem> items = scheduler_.plan(
      now_s(), [this](SequenceState& s) { return bind(static_cast<AnswerState&>(s)); });
  const bool any_fault = !faulty_.empty();
  for (AnswerState* answer : std::exchange(faulty_, {}))
    end_all(*answer->request, FinishReason::kError, &*answer->fault);
  if (items.empty()) return any_fault;
  for (const StepItem& item : items) {
    auto& answer = static_cast<AnswerState&>(*item.sequence);
    mark_begun(*answer.request);
    if (std::exchange(answer.counted, true)) continue;
    answer.first_step_s = now_s();
    counts_.prefix_queries += answer.n_prompt;
    counts_.prefix_hits += answer.n_cached_prompt;
    counts_.prompt_tokens += answer.n_prompt - answer.n_cached_prompt;
  }
  std::vector<StepToken> tokens;
  try {
    tokens = runner_.run(items);
  } catch (const Error& error) {
    fail_step(items, error);
    return true;
  } catch (const std::bad_alloc&) {
    fail_step(items, Error(ErrorCode::kOutOfMemory, "the machine has no memory for a step"));
    return true;
  }
  count_step(items);
  scheduler_.computed(items);
  for (const StepToken& token : tokens) {
    if (token.answer->ended) continue;  // with another answer of its request
    try {
      take(token);
    } catch (const std::bad_alloc&) {
      end_for_memory(*token.answer->request);
    }
  }
  return true;
}

void EngineLoop::count_step(std::span<const StepItem> items) {
  int64_t n_tokens = 0;
  for (const StepItem& item : items) n_tokens += item.n_tokens;
  const auto bound = std::ranges::lower_bound(kStepTokenBounds, n_tokens);
  ++counts_.steps_by_tokens[static_cast<size_t>(bound - kStepTokenBounds.begin())];
  counts_.step_tokens += n_tokens;
  ++counts_.steps;
}

/// The answers of a step that could not be computed end; the others go on, unless the device is
/// gone.
void EngineLoop::fail_step(std::span<const StepItem> items, const Error& error) {
  for (const StepItem& item : items)
    end_all(*static_cast<AnswerState&>(*item.sequence).request, FinishReason::kError, &error);
  if (error.code() == ErrorCode::kDevice) break_down(error.code(), error.what());
}

/// Refuses what comes; the next turn ends everything, without the scheduler.
void EngineLoop::break_down(ErrorCode code, const char* what) noexcept {
  // A turn that fails again found no memory even to end requests: others may give some back.
  if (broken_down_) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  broken_down_ = true;
  faulty_.clear();
  try {
    const std::lock_guard lock(mutex_);
    if (!broken_) broken_.emplace(code, what);
  } catch (...) {  // no memory to say why
  }
}

void EngineLoop::mark_begun(RequestState& request) {
  if (std::exchange(request.begun, true)) return;
  const std::lock_guard lock(mutex_);
  const auto waiting = waiting_.find(request.request.tenant);
  if (--waiting->second == 0) waiting_.erase(waiting);
  --n_waiting_;
}

void EngineLoop::forget_finished() {
  while (!finished_.empty()) {
    const auto found = requests_.find(finished_.back());
    RequestState& request = *found->second;
    mark_begun(request);
    if (request.request.deadline) deadlines_.erase({*request.request.deadline, request.id});
    const VariantUse use = std::move(request.use);
    requests_.erase(found);
    finished_.pop_back();
    ++n_forgotten_;
    store_.finish(use);
  }
}

void EngineLoop::update_stats() {
  EngineStats now = counts_;
  now.preemptions = scheduler_.n_preempted();
  now.kv_blocks = n_blocks_;
  now.kv_block_tokens = kKvBlock;
  if (!broken_down_) {
    now.running = scheduler_.n_running();
    now.waiting = scheduler_.n_waiting();
    now.kv_blocks_in_use = n_blocks_ - scheduler_.pool().available();
    now.kv_blocks_cached = scheduler_.pool().idle();
  }
  now.kv_bytes = runner_.kv_bytes();
  now.base_bytes = model_.weights().bytes;
  const std::lock_guard lock(mutex_);
  stats_ = now;
}

}  // namespace deltacome
