// SPDX-License-Identifier: Apache-2.0
#include "deltacome/engine.h"

#include <future>

#include "backend/device.h"
#include "backend/weight_format.h"
#include "core/check.h"
#include "engine/engine_loop.h"

namespace deltacome {

/// In the order in which they need each other; they end in the reverse order.
struct Engine::Impl {
  explicit Impl(const EngineOptions& o)
      : options(o),
        checkpoint(Checkpoint::open(o.base)),
        config(read_model_config(o.base)),
        backend(create_backend(o.device, o.n_threads, o.device_memory_bytes)),
        model(*backend, checkpoint, config, parse_weight_format(o.base_dtype),
              parse_kv_dtype(o.kv_dtype)),
        base_text(texts.load(o.base, "the base")),
        base_vision(config.vision ? VariantVision{{*config.vision, read_image_preprocessing(
                                                                       o.base, *config.vision)},
                                                  visions.share(checkpoint, config)}
                                  : VariantVision{}),
        store(
            *backend, o.base, config, [this] { return checkpoint.content_hash(); }, o.variant_bytes,
            texts, visions, [this] { poke(); }) {
    check_device_memory();
    loop = std::make_unique<EngineLoop>(o, model, store, base_text, base_vision, deliveries);
  }
  ~Impl() {
    loop->stop(false);
    flush();  // deliveries may still name the loop
    const std::lock_guard lock(loop_mutex);
    loop.reset();
  }

  /// Only if a budget was given: otherwise variants may never need all that is theirs.
  void check_device_memory() const {
    if (options.device_memory_bytes == 0) return;
    const MemoryUse use = backend->memory_use();
    const int64_t wanted = use.held + options.kv_cache_bytes + options.variant_bytes;
    if (wanted <= use.budget) return;
    fail(ErrorCode::kOutOfMemory,
         "the base ({} bytes), keys and values ({}) and variants ({}) take {} bytes of device "
         "memory, expected at most {}",
         use.held, options.kv_cache_bytes, options.variant_bytes, wanted, use.budget);
  }

  /// Waits until everything that was posted has been delivered.
  void flush() {
    const auto delivered = std::make_shared<std::promise<void>>();
    deliveries.post([delivered] { delivered->set_value(); });
    delivered->get_future().wait();
  }

  /// The store's loader may still end a job while the loop is gone.
  void poke() {
    const std::lock_guard lock(loop_mutex);
    if (loop != nullptr) loop->poke();
  }

  std::shared_ptr<const TextAssets> text(const std::string& variant) {
    return variant.empty() ? base_text : store.text(variant);
  }

  EngineOptions options;
  Checkpoint checkpoint;
  ModelConfig config;
  std::unique_ptr<Backend> backend;
  Model model;
  TextCache texts;
  std::shared_ptr<const TextAssets> base_text;
  VisionCache visions;
  VariantVision base_vision;
  std::mutex loop_mutex;
  Deliveries deliveries;
  VariantStore store;
  std::unique_ptr<EngineLoop> loop;
};

Engine::Engine(const EngineOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Engine::~Engine() = default;

uint64_t Engine::submit(EngineRequest request, EventHandler on_event) {
  return impl_->loop->submit(std::move(request), std::move(on_event));
}

void Engine::cancel(uint64_t request) {
  impl_->loop->cancel(request);
}

std::vector<Answer> Engine::generate(EngineRequest request) {
  struct State {
    std::vector<Answer> answers;
    size_t n_open;
    std::optional<Error> error;
    std::promise<void> done;
  };
  const auto state = std::make_shared<State>();
  impl_->loop->check(request);  // n, above all, before there is memory for n answers
  state->n_open = static_cast<size_t>(request.n);
  state->answers.resize(state->n_open);
  submit(std::move(request), [state](const TokenEvent& event) {
    Answer& answer = state->answers[static_cast<size_t>(event.choice)];
    if (event.token) answer.tokens.push_back(*event.token);
    answer.text += event.text;
    answer.events.push_back(event);
    if (event.finish == FinishReason::kNone) return;
    answer.finish = event.finish;
    if (event.error) state->error = event.error;
    if (--state->n_open == 0) state->done.set_value();
  });
  state->done.get_future().wait();
  if (state->error) throw Error(*state->error);
  return std::move(state->answers);
}

namespace {

/// Waits for the outcome that `start` will report.
template <class Start>
void wait_for(const Start& start) {
  const auto outcome = std::make_shared<std::promise<std::optional<Error>>>();
  start([outcome](const Error* error) {
    outcome->set_value(error == nullptr ? std::optional<Error>() : *error);
  });
  if (const std::optional<Error> error = outcome->get_future().get()) throw Error(*error);
}

}  // namespace

void Engine::start_load(const std::string& name, const std::filesystem::path& path,
                        const LoadOptions& options, DoneHandler done) {
  impl_->store.start_load(name, path, options, deliver(std::move(done)));
}

void Engine::load(const std::string& name, const std::filesystem::path& path,
                  const LoadOptions& options) {
  wait_for([&](auto done) { impl_->store.start_load(name, path, options, std::move(done)); });
}

void Engine::start_unload(const std::string& name, UnloadMode mode, DoneHandler done) {
  impl_->store.start_unload(name, mode, deliver(std::move(done)));
}

void Engine::unload(const std::string& name, UnloadMode mode) {
  wait_for([&](auto done) { impl_->store.start_unload(name, mode, std::move(done)); });
}

void Engine::set_pinned(const std::string& name, bool pinned) {
  impl_->store.set_pinned(name, pinned);
}

std::vector<VariantStatus> Engine::variants() const {
  return impl_->store.list();
}

Engine::DoneHandler Engine::deliver(DoneHandler done) {
  if (!done) return done;
  return [&deliveries = impl_->deliveries, done = std::move(done)](const Error* error) {
    deliveries.post([done, error = error == nullptr ? std::optional<Error>() : *error] {
      try {
        done(error ? &*error : nullptr);
      } catch (...) {  // nobody is left who could be told
      }
    });
  };
}

std::vector<int32_t> Engine::encode(const std::string& variant, const std::string& text,
                                    bool add_special_tokens) const {
  return impl_->text(variant)->need_tokenizer().encode(text, add_special_tokens);
}

std::string Engine::decode(const std::string& variant, const std::vector<int32_t>& tokens,
                           bool skip_special_tokens) const {
  return impl_->text(variant)->need_tokenizer().decode(tokens, skip_special_tokens);
}

std::string Engine::chat_prompt(const std::string& variant,
                                const std::vector<ChatTurn>& turns) const {
  std::vector<ChatMessage> messages;
  for (const ChatTurn& turn : turns) messages.push_back({turn.role, turn.content});
  return impl_->text(variant)->need_chat_template().render(messages, true);
}

std::string Engine::chat_prompt_json(const std::string& variant,
                                     std::string_view context_json) const {
  return impl_->text(variant)->need_chat_template().render_json(context_json);
}

EngineStats Engine::stats() const {
  EngineStats out = impl_->loop->stats();
  const VariantStore::Counters store = impl_->store.counters();
  out.variant_bytes = store.bytes;
  out.loads = store.loads;
  out.failed_loads = store.failed_loads;
  out.evictions = store.evictions;
  return out;
}

DeviceMemoryUse Engine::device_memory() const {
  const MemoryUse use = impl_->backend->memory_use();
  return {.weights = use.weights,
          .variants = use.variants,
          .kv_cache = use.kv_cache,
          .workspace = use.workspace,
          .held = use.held,
          .peak = use.peak,
          .budget = use.budget,
          .device_total = use.device_total,
          .device_free = use.device_free};
}

std::string Engine::device() const {
  return impl_->backend->name();
}

int64_t Engine::max_context() const {
  return impl_->loop->max_context();
}

void Engine::stop(bool drain) {
  impl_->loop->stop(drain);
  impl_->flush();
}

}  // namespace deltacome
