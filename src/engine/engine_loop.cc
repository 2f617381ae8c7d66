// SPDX-License-Identifier: Apache-2.0
// EngineLoop: queues and the life of the thread. Its steps are in engine_step.cc, the life of
// answers in engine_answers.cc.
#include "engine/engine_loop.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <random>

#include "core/check.h"

namespace deltacome {
namespace {

constexpr int kMaxAnswers = 128;  // n of a request
constexpr int kMaxLogprobs = 20;  // OpenAI's and vLLM's bound
constexpr double kMinWeight = 1e-6, kMaxWeight = 1e6;
constexpr size_t kMaxStops = 16;        // every one is searched for at every token
constexpr size_t kMaxStopBytes = 1024;  // of one
constexpr size_t kMaxTokenList = 1024;  // stop ids; entries of logit_bias

int64_t blocks_of(const EngineOptions& options, const Model& model) {
  const ModelConfig& config = model.config();
  const int64_t bytes = KvCache::block_bytes(config, config.n_layers, model.kv_dtype());
  const int64_t n = options.kv_cache_bytes / bytes;
  if (n < 2) {
    fail(ErrorCode::kInvalidArgument,
         "the KV cache has {} bytes, expected at least {}: two blocks of {} tokens",
         options.kv_cache_bytes, 2 * bytes, kKvBlock);
  }
  return std::min<int64_t>(n, std::numeric_limits<int32_t>::max());
}

SchedulerOptions scheduler_options(const EngineOptions& options) {
  if (options.max_sequences < 1 || options.step_tokens < options.max_sequences) {
    fail(ErrorCode::kInvalidArgument,
         "max_sequences is {} and step_tokens {}, expected 1 <= max_sequences <= step_tokens",
         options.max_sequences, options.step_tokens);
  }
  return {.max_sequences = options.max_sequences,
          .step_tokens = options.step_tokens,
          .strict_shares = options.strict_shares};
}

/// On the submitting thread, which is told if there is no memory for them. Only the first gets the
/// prompt now: the others follow when it has been computed, which they share.
void make_answers(RequestState& request) {
  const EngineRequest& r = request.request;
  for (int choice = 0; choice < r.n; ++choice) {
    auto answer = std::make_unique<AnswerState>();
    answer->request = &request;
    answer->choice = choice;
    answer->seed = choice_seed(*r.sampling.seed, choice);
    answer->tenant = r.tenant;
    answer->variant = r.variant;
    answer->weight = r.weight;
    answer->priority = r.priority;
    request.answers.push_back(std::move(answer));
  }
  request.n_open = r.n;
  AnswerState& first = *request.answers.front();
  first.tokens = r.prompt;
  first.n_prompt = first.n_tokens();
}

uint64_t random_seed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace

EngineLoop::EngineLoop(const EngineOptions& options, const Model& model, VariantStore& store,
                       std::shared_ptr<const TextAssets> base_text, VariantVision base_vision,
                       Deliveries& deliveries)
    : options_(options),
      model_(model),
      store_(store),
      base_text_(std::move(base_text)),
      base_vision_(std::move(base_vision)),
      deliveries_(deliveries),
      stream_(model.backend().create_stream()),
      n_blocks_(blocks_of(options, model)),
      runner_(model, *stream_, n_blocks_),
      towers_(model.backend()),
      scheduler_(scheduler_options(options), n_blocks_) {
  update_stats();
  thread_ = std::thread([this] { run(); });
}

EngineLoop::~EngineLoop() {
  stop(false);
  thread_.join();
}

int64_t EngineLoop::max_context() const noexcept {
  return std::min(model_.config().max_positions, n_blocks_ * kKvBlock);
}

PictureFormat EngineLoop::picture_format(const std::string& variant) const {
  if (!variant.empty()) return store_.picture_format(variant);
  if (base_vision_.tensors == nullptr)
    fail(ErrorCode::kInvalidArgument, "the base takes no pictures: it has no vision tower");
  return base_vision_.format;
}

void EngineLoop::check(const EngineRequest& r) const {
  const auto expect = [](bool holds, const char* name, auto got, const std::string& expected) {
    if (!holds) fail(ErrorCode::kInvalidArgument, "{} is {}, expected {}", name, got, expected);
  };
  if (r.prompt.empty()) fail(ErrorCode::kInvalidArgument, "the prompt is empty");
  expect(r.n >= 1 && r.n <= kMaxAnswers, "n", r.n, fmt::format("1 to {}", kMaxAnswers));
  expect(r.max_tokens >= 1, "max_tokens", r.max_tokens, "1 or more");
  expect(r.min_tokens >= 0 && r.min_tokens <= r.max_tokens, "min_tokens", r.min_tokens,
         fmt::format("0 to max_tokens, {}", r.max_tokens));
  expect(r.weight >= kMinWeight && r.weight <= kMaxWeight, "weight", r.weight,
         fmt::format("{} to {}", kMinWeight, kMaxWeight));
  if (r.logprobs)
    expect(*r.logprobs >= 0 && *r.logprobs <= kMaxLogprobs, "logprobs", *r.logprobs,
           fmt::format("0 to {}", kMaxLogprobs));
  if (r.prompt_logprobs)
    expect(*r.prompt_logprobs >= 0 && *r.prompt_logprobs <= kMaxLogprobs, "prompt_logprobs",
           *r.prompt_logprobs, fmt::format("0 to {}", kMaxLogprobs));
  const auto at_most = [&](const char* name, size_t got, size_t most) {
    expect(got <= most, name, got, fmt::format("at most {}", most));
  };
  at_most("the number of stop texts", r.stop.size(), kMaxStops);
  for (size_t i = 0; i < r.stop.size(); ++i) {
    const size_t bytes = r.stop[i].size();
    expect(bytes >= 1 && bytes <= kMaxStopBytes, "the length of a stop text", bytes,
           fmt::format("1 to {} bytes: it is stop[{}]", kMaxStopBytes, i));
  }
  at_most("the number of stop ids", r.stop_ids.size(), kMaxTokenList);
  at_most("the number of entries of logit_bias", r.sampling.logit_bias.size(), kMaxTokenList);
  const auto n_prompt = static_cast<int64_t>(r.prompt.size());
  if (n_prompt >= max_context()) {
    fail(ErrorCode::kInvalidArgument,
         "the prompt has {} tokens, expected fewer than the {} that model and cache can hold",
         n_prompt, max_context());
  }
  check_sampling(r.sampling, std::numeric_limits<int32_t>::max());
}

/// Requires the mutex.
void EngineLoop::count_waiting(const std::string& tenant) {
  if (broken_) throw Error(*broken_);
  if (closed_) fail(ErrorCode::kOverloaded, "the engine is stopping and takes no more requests");
  if (n_waiting_ >= options_.max_waiting)
    fail(ErrorCode::kOverloaded, "{} requests are waiting, the most that the engine queues",
         n_waiting_);
  int64_t& waiting = waiting_[tenant];
  if (waiting >= options_.max_waiting_per_tenant) {
    fail(ErrorCode::kOverloaded,
         "{} requests of tenant \"{}\" are waiting, the most that the engine queues for one",
         waiting, tenant);
  }
  ++waiting;
  ++n_waiting_;
}

/// Of a constraint on the answers of a base or variant with this text.
std::shared_ptr<grammar::TokenMasks> EngineLoop::masks_of(const Constraint& constraint,
                                                          const TextAssets& text) {
  return constraints_.get(constraint, text.need_token_set());
}

uint64_t EngineLoop::submit(EngineRequest request, Engine::EventHandler on_event) {
  check(request);
  if (request.constraint) {
    // Here, so that its faults are thrown, and the engine thread finds it made. The answers get it
    // from the cache, or, if the variant is replaced by one with another tokenizer, made anew.
    masks_of(*request.constraint,
             request.variant.empty() ? *base_text_ : *store_.text(request.variant));
  }
  auto state = std::make_unique<RequestState>();
  state->on_event = std::make_shared<const Engine::EventHandler>(std::move(on_event));
  if (!request.images.empty()) {
    state->pictures = take_pictures(request, picture_format(request.variant));
    check(request);  // its prompt is longer now
  }
  if (!request.sampling.seed) request.sampling.seed = random_seed();
  state->request = std::move(request);
  make_answers(*state);
  state->use = store_.accept(state->request.variant);
  const VariantUse use = state->use;
  uint64_t id = 0;
  try {
    const std::lock_guard lock(mutex_);
    submitted_.emplace_back();  // first, while nothing has been counted
    try {
      count_waiting(state->request.tenant);
    } catch (...) {
      submitted_.pop_back();
      throw;
    }
    id = state->id = next_request_++;
    ++n_requests_;
    submitted_.back() = std::move(state);
  } catch (...) {
    store_.finish(use);
    throw;
  }
  wake_.notify_all();
  return id;
}

void EngineLoop::cancel(uint64_t request) {
  {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(request);
  }
  wake_.notify_all();
}

void EngineLoop::poke() {
  {
    const std::lock_guard lock(mutex_);
    poked_ = true;
  }
  wake_.notify_all();
}

void EngineLoop::stop(bool drain) {
  std::unique_lock lock(mutex_);
  closed_ = true;
  if (!drain) stopping_ = true;
  wake_.notify_all();
  idle_.wait(lock, [this] { return n_requests_ == 0; });
}

EngineStats EngineLoop::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats out = stats_;
  out.requests = n_requests_;
  return out;
}

double EngineLoop::now_s() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

void EngineLoop::run() {
  for (;;) {
    bool progress = true;
    try {
      progress = turn();
    } catch (const std::bad_alloc&) {  // that no single request could be blamed for
      break_down(ErrorCode::kOutOfMemory, "the machine has no memory for the engine");
    } catch (const std::exception& error) {  // a bug; nothing is known of any sequence's state
      break_down(ErrorCode::kInternal, error.what());
    } catch (...) {
      break_down(ErrorCode::kInternal, "an exception of an unknown type");
    }

    std::unique_lock lock(mutex_);
    // Once the ends have been posted: who waits for them will be told.
    if (outbox_.empty() && n_forgotten_ > 0) {
      n_requests_ -= std::exchange(n_forgotten_, 0);
      idle_.notify_all();
    }
    if (closed_ && n_requests_ == 0) return;
    if (progress) continue;
    const auto ready = [this] {
      return poked_ || closed_ || !submitted_.empty() || !cancelled_.empty();
    };
    if (closed_ && !stopping_) {
      // Draining with nothing to compute: a load has to end first.
      const auto changed = [this] {
        return poked_ || stopping_ || !submitted_.empty() || !cancelled_.empty();
      };
      if (deadlines_.empty()) {
        wake_.wait(lock, changed);
      } else {
        wake_.wait_until(lock, deadlines_.begin()->first, changed);
      }
    } else if (deadlines_.empty()) {
      wake_.wait(lock, ready);
    } else {
      wake_.wait_until(lock, deadlines_.begin()->first, ready);
    }
    poked_ = false;
  }
}

/// Everything that a round does; false if there was nothing to compute. What throws here belongs to
/// no single request. The next turn goes on where this one ended.
bool EngineLoop::turn() {
  const bool end = read_inbox();
  bool progress = false;
  if (broken_down_) {
    const Error error = broken_.value_or(Error(ErrorCode::kOutOfMemory, "the engine broke down"));
    for (const auto& [_, request] : requests_) end_all(*request, FinishReason::kError, &error);
  } else {
    if (end) {
      for (const auto& [_, request] : requests_) end_all(*request, FinishReason::kCancelled);
    }
    expire();
    progress = step();
  }
  // First: who is told of an end finds it counted, and the variant unused.
  forget_finished();
  update_stats();
  deliveries_.post(outbox_);
  return progress;
}

/// Starts and cancels what others asked for; true if everything is to be cancelled.
bool EngineLoop::read_inbox() {
  std::vector<uint64_t> cancelled;
  bool end = false;
  {
    const std::lock_guard lock(mutex_);
    if (inbox_.empty()) inbox_.swap(submitted_);
    cancelled.swap(cancelled_);
    end = stopping_;
  }
  for (auto& state : inbox_)
    if (state != nullptr) start(state);
  inbox_.clear();
  for (const uint64_t id : cancelled) {
    const auto found = requests_.find(id);
    if (found != requests_.end()) end_all(*found->second, FinishReason::kCancelled);
  }
  return end;
}

void EngineLoop::expire() {
  const Clock::time_point now = Clock::now();
  for (const auto& [time, id] : deadlines_) {
    if (time > now) break;
    end_all(*requests_.at(id), FinishReason::kDeadline);
  }
}

}  // namespace deltacome
