// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "deltacome/model.h"
#include "deltacome/request.h"

namespace deltacome {

struct EngineOptions {
  std::filesystem::path base;                // a Hugging Face checkpoint
  std::string device = "cpu";                // as ModelOptions::device
  int n_threads = 0;                         // of the CPU; 0 = one per core
  std::string base_dtype = "auto";           // as ModelOptions::base_dtype
  std::string kv_dtype = "f32";              // as ModelOptions::kv_dtype
  int64_t kv_cache_bytes = 1 << 30;          // for keys and values of all sequences
  int64_t variant_bytes = int64_t{4} << 30;  // for packed variants in memory
  /// Of a device with memory of its own: what weights, variants, keys and values, and workspace may
  /// take together; 0 = what is free.
  int64_t device_memory_bytes = 0;
  int64_t max_sequences = 32;  // answers that are computed at once
  int64_t step_tokens = 512;   // rows of one step; bounds the time between tokens
  int64_t max_waiting = 1024;  // requests that have not begun, and of one tenant
  int64_t max_waiting_per_tenant = 1024;
  bool prefix_cache = true;
  bool share_prefixes = false;  // between tenants; they could notice by the time it takes
  bool strict_shares = false;   // a tenant never gets more seats than its share while others are
                                // active, even if some stay empty
};

struct LoadOptions {
  bool pinned = false;   // stays in memory
  bool replace = false;  // takes the place of a variant of the same name; else that is an error
  bool lazy = false;     // only checked and registered; loaded when a request names it
};

enum class UnloadMode {
  kRefuse,  // throws if a request uses it
  kDrain    // accepted requests are finished first, new ones are refused
};

enum class VariantState { kOnDisk, kLoading, kReady, kDraining };

struct VariantStatus {
  std::string name = {};
  std::filesystem::path path = {};
  VariantState state = VariantState::kOnDisk;
  bool pinned = false;
  std::string content_hash = {};              // of the version in memory; empty if there is none
  int64_t bytes = 0;                          // in memory, of all versions that are still in use
  int64_t requests = 0;                       // accepted and not finished
  int64_t loaded_bytes = 0, total_bytes = 0;  // of a load that goes on
  std::string last_error = {};                // of the last load that failed
};

/// Bounds (<=) by which EngineStats counts steps; more tokens come last.
inline constexpr std::array<int64_t, 13> kStepTokenBounds = {1,   8,    16,   32,   64,   128,  256,
                                                             512, 1024, 2048, 4096, 8192, 16384};

/// Counters since the start, and the present state.
struct EngineStats {
  int64_t running = 0, waiting = 0;  // sequences
  int64_t requests = 0;              // accepted and not finished
  int64_t kv_blocks = 0, kv_blocks_in_use = 0, kv_blocks_cached = 0;
  int64_t kv_block_tokens = 0;  // that a block holds
  int64_t kv_bytes = 0, variant_bytes = 0, base_bytes = 0;
  std::array<int64_t, kStepTokenBounds.size() + 1> steps_by_tokens = {};  // of prompts and answers
  int64_t step_tokens = 0;                                                // in all steps
  int64_t steps = 0, prompt_tokens = 0, output_tokens = 0, preemptions = 0;
  int64_t prefix_queries = 0, prefix_hits = 0;  // prompt tokens looked up, found
  int64_t finished_stop = 0, finished_length = 0, cancelled = 0, expired = 0, failed = 0;
  int64_t loads = 0, failed_loads = 0, evictions = 0;
};

/// Bytes of a device's memory by what they are for; all 0 on the CPU, where nobody counts.
struct DeviceMemoryUse {
  int64_t weights = 0, variants = 0, kv_cache = 0, workspace = 0;  // in use
  int64_t held = 0;    // taken from the device: those and what is kept for the next
  int64_t peak = 0;    // the most that `held` was
  int64_t budget = 0;  // what `held` may reach
  int64_t device_total = 0, device_free = 0;  // as the driver says, other programs included
};

/// Serves a base and any number of its variants in one batch. All members may be called from any
/// thread; none waits for a step, but those that say so wait for other things. docs/engine.md.
class Engine {
 public:
  /// Opens the base. Throws Error, kOutOfMemory if weights and caches do not fit the device memory
  /// that was asked for.
  explicit Engine(const EngineOptions& options);
  /// As stop(false).
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Takes a request; its events come through `on_event`, one call at a time, on a thread of the
  /// engine's that does nothing else: a slow one delays other events, but no step. What it throws
  /// cancels the request. Throws kInvalidArgument, kNotFound for an unknown variant, kOverloaded if
  /// a queue is full, and kUnsupported for a constraint or stop texts without a tokenizer. A
  /// constraint is compiled here, which may take tens of milliseconds when it is new. Faults that
  /// only the variant can tell (a token outside of its vocabulary)
  /// come as an event.
  using EventHandler = std::function<void(const TokenEvent&)>;
  uint64_t submit(EngineRequest request, EventHandler on_event);
  /// Ends a request within a step; its answers end with kCancelled. Unknown ids are ignored.
  void cancel(uint64_t request);
  /// Submits and waits for all n answers. Throws the error of an answer that failed.
  std::vector<Answer> generate(EngineRequest request);

  /// Loads an archive or a LoRA adapter as `name`, in the background; `done` is called as events
  /// are, with null or what went wrong. A load that fails changes nothing.
  using DoneHandler = std::function<void(const Error*)>;
  void start_load(const std::string& name, const std::filesystem::path& path,
                  const LoadOptions& options, DoneHandler done);
  /// The same, and waits. Throws what went wrong.
  void load(const std::string& name, const std::filesystem::path& path,
            const LoadOptions& options = {});
  /// Removes a variant; `done` as above, when no request uses it any more. Throws kNotFound, and
  /// kInvalidArgument if it is in use and may not be.
  void start_unload(const std::string& name, UnloadMode mode, DoneHandler done);
  void unload(const std::string& name, UnloadMode mode = UnloadMode::kDrain);
  void set_pinned(const std::string& name, bool pinned);
  std::vector<VariantStatus> variants() const;

  /// The variant's own tokenizer and chat template (empty name = base). Reads them from disk if it
  /// is not in memory. Throw kNotFound, and kUnsupported if it has none.
  std::vector<int32_t> encode(const std::string& variant, const std::string& text,
                              bool add_special_tokens = true) const;
  std::string decode(const std::string& variant, const std::vector<int32_t>& tokens,
                     bool skip_special_tokens = true) const;
  std::string chat_prompt(const std::string& variant, const std::vector<ChatTurn>& turns) const;
  /// With the template's whole context: {"messages": [...], "tools": [...], ...}.
  std::string chat_prompt_json(const std::string& variant, std::string_view context_json) const;

  EngineStats stats() const;
  DeviceMemoryUse device_memory() const;
  std::string device() const;
  int64_t max_context() const;  // tokens of prompt and output that the model and the cache can hold

  /// Takes no more requests; with `drain` waits for those accepted, else cancels them. Returns when
  /// the last event has been delivered. Not to be called from a handler.
  void stop(bool drain = true);

 private:
  struct Impl;
  DoneHandler deliver(DoneHandler done);
  std::unique_ptr<Impl> impl_;
};

}  // namespace deltacome
