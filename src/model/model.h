// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "backend/backend.h"
#include "io/model_config.h"
#include "io/safetensors.h"
#include "model/kv_cache.h"
#include "model/layer.h"
#include "model/weights.h"

namespace deltacome {

/// A variant in a backend's memory, as batches name it. Null device = the base itself.
struct Variant {
  std::shared_ptr<const DeviceVariant> device;
  int64_t vocab_size = 0;  // rows of its embedding; 0 = as the base
};

/// One sequence's part of a step.
struct BatchItem {
  // The next tokens of the sequence, at least one; ids below 0 are rows of `given`
  // (model/given_rows.h).
  std::span<const int32_t> tokens;
  Sequence* sequence = nullptr;  // grows by them
  Variant variant;
  enum class Rows {
    kNone,
    kLast,
    kAll
  } wanted = Rows::kLast;  // rows whose hidden state is asked for
  Tensor given = {};       // [n, hidden_size] f32 or empty
};

/// Rows of hidden states that belong to one variant.
struct HiddenRows {
  Tensor hidden;  // [n, hidden_size] after the final norm
  std::vector<VariantSegment> segments;
  int64_t vocab_size = 0;  // the largest among the variants
};

/// What steps of one token a sequence keep from one to the next: memory, and on some backends what
/// they recorded. Of one model and one stream.
struct DecodeMemory {
  std::unique_ptr<StepRecorder> recorder;
  Tensor hidden, logits;  // of the largest step so far
  bool begun = false;
};

/// A decoder-only transformer on a backend: weights of the base, shared by all variants. Immutable
/// but for its hook; one thread at a time (the backend's rule).
class Model {
 public:
  Model(Backend& backend, const Checkpoint& checkpoint, ModelConfig config,
        WeightFormat format = WeightFormat::kStored, DType kv_dtype = DType::kF32);

  /// Runs one step of a batch of sequences of any variants: prefill chunks and single tokens mixed.
  /// Returns the wanted rows in batch order. A row's result does not depend on the rest of the
  /// batch nor on how a prompt was cut into chunks. Throws kInvalidArgument for a token id that the
  /// variant does not have, kOutOfMemory if the cache has no room (then no sequence has changed its
  /// length).
  HiddenRows forward(Stream& stream, std::span<const BatchItem> batch, KvCache& cache) const;

  /// Logits [n, vocab_size] f32 of rows [first, first + count) of `rows`. Columns beyond a row's
  /// own vocabulary are undefined.
  Tensor logits(Stream& stream, const HiddenRows& rows, int64_t first, int64_t count) const;

  /// Whether every sequence has one new token (no given row), and its row is wanted: a step for
  /// decode().
  static bool is_decode(std::span<const BatchItem> batch) noexcept;
  /// Logits [n, vocab_size] f32 of such a step, as forward() and logits() give them; valid until
  /// the next step with `memory`. Throws what they throw.
  Tensor decode(Stream& stream, std::span<const BatchItem> batch, KvCache& cache,
                DecodeMemory& memory) const;

  /// `hook` is called with each layer that a pass is done with: whoever has mapped the weights can
  /// give their pages back.
  void on_layer_done(std::function<void(int64_t layer)> hook) { on_layer_done_ = std::move(hook); }
  void layer_done(int64_t layer) const {
    if (on_layer_done_) on_layer_done_(layer);
  }

  int64_t vocab_size(const Variant& variant) const noexcept {
    return variant.vocab_size > 0 ? variant.vocab_size : config_.vocab_size;
  }
  const ModelConfig& config() const noexcept { return config_; }
  const ModelWeights& weights() const noexcept { return weights_; }
  Backend& backend() const noexcept { return backend_; }
  DType kv_dtype() const noexcept { return kv_dtype_; }  // that its caches are to have

 private:
  struct Rows;
  /// Checks the tokens, reserves cache, and puts the batch in rows; fills in `out` but its hidden
  /// states.
  Rows lay_out(std::span<const BatchItem> batch, KvCache& cache, HiddenRows& out) const;
  /// All layers over `hidden`, in place.
  void run_layers(const LayerRun& run, KvCache& cache, const Tensor& hidden) const;

  Backend& backend_;
  ModelConfig config_;
  ModelWeights weights_;
  DType kv_dtype_;
  std::function<void(int64_t)> on_layer_done_;
};

}  // namespace deltacome
