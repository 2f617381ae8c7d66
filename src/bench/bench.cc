// SPDX-License-Identifier: Apache-2.0
#include "deltacome/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <limits>
#include <span>
#include <thread>
#include <tuple>

#include "backend/device.h"
#include "bench/roofs.h"
#include "bench/synthetic.h"
#include "core/check.h"
#include "model/model.h"

namespace deltacome {
namespace {

/// A step that is measured: its sequences, and what it is compared with.
struct Case {
  std::string name;
  std::vector<Variant> variants;       // one a sequence
  std::vector<Sequence> sequences;     // with `context` tokens in the cache
  std::vector<const Model*> models;    // one a sequence, each a step of its own; empty: the base's
  std::vector<DecodeMemory> decoding;  // by model
  size_t against = 0;                  // index of the case with the base alone
  int64_t bytes = 0;
  double best_s = std::numeric_limits<double>::infinity();
};

/// Counts of the command line, by the names that they have there.
void check_options(const BenchOptions& options) {
  const auto at_least = [](int64_t least, const char* name, int64_t got) {
    if (got < least)
      fail(ErrorCode::kInvalidArgument, "{} {}: expected at least {}", name, got, least);
  };
  at_least(1, "--variants", options.n_variants);
  at_least(1, "--batch", options.batch);
  at_least(0, "--context", options.context);
  at_least(1, "--prompt", options.prompt);
  at_least(1, "--repeats", options.repeats);
}

/// A model, its variants, and the rounds of measurements.
class Bench {
 public:
  explicit Bench(const BenchOptions& options)
      : options_(options),
        config_(options.base
                    ? read_model_config(*options.base)
                    : synthetic_config(options.shape, options.n_layers, options.vocab_size)),
        backend_(create_backend(options.device, options.n_threads, options.device_memory_bytes)),
        stream_(backend_->create_stream()),
        roofs_(*backend_, options.device == "cpu", options.n_threads) {
    const Checkpoint checkpoint =
        options.base ? Checkpoint::open(*options.base) : synthetic_checkpoint(config_);
    model_ = make_model(checkpoint);
    report_.device = backend_->name();
    report_.base =
        fmt::format("{}, {} layers, {}", options.base ? options.base->string() : options.shape,
                    config_.n_layers, options.base_dtype);
    report_.delta = fmt::format("{}, {:g} bits", options.delta, options.bits);
    report_.weight_bytes = read_bytes();
  }

  Variant add_variant() {
    const SyntheticVariant made =
        options_.device == "cpu"
            ? synthetic_variant(*backend_, *stream_, config_, delta(++n_variants_))
            : copy_of_delta();
    report_.delta_bytes = made.bytes;
    report_.delta_resident_bytes = made.device->resident_bytes();
    return {made.device, 0};
  }

  /// One sequence for each of n models of their own.
  void add_whole_models(size_t n, size_t against) {
    const size_t i =
        add_case(fmt::format("{} whole model{}, 1 sequence each", n, n == 1 ? "" : "s"),
                 std::vector<Variant>(n), against);
    for (size_t m = 0; m < n; ++m) {
      whole_models_.push_back(make_model(synthetic_checkpoint(config_, m + 2)));
      cases_[i].models.push_back(whole_models_.back().get());
    }
    cases_[i].bytes = static_cast<int64_t>(n) * report_.weight_bytes;
  }

  size_t add_case(std::string name, std::vector<Variant> variants, size_t against) {
    Case c;
    c.name = std::move(name);
    c.variants = std::move(variants);
    c.against = against;
    std::vector<const DeviceVariant*> distinct;
    for (const Variant& v : c.variants) {
      if (v.device != nullptr && std::ranges::find(distinct, v.device.get()) == distinct.end())
        distinct.push_back(v.device.get());
    }
    c.bytes =
        report_.weight_bytes + static_cast<int64_t>(distinct.size()) * report_.delta_resident_bytes;
    cases_.push_back(std::move(c));
    return cases_.size() - 1;
  }

  /// Case `i` is compared with case `against`.
  void rebase(size_t i, size_t against) { cases_[i].against = against; }

  /// Every case takes `n_tokens` new tokens a sequence, after `context` in the cache.
  BenchReport run(int64_t context, int64_t n_tokens,
                  const std::function<void(int64_t, int64_t)>& on_progress) {
    int64_t n_sequences = 0;  // of the largest case: they take turns
    for (Case& c : cases_) {
      c.sequences.resize(c.variants.size());
      n_sequences = std::max(n_sequences, static_cast<int64_t>(c.sequences.size()));
    }
    KvCache cache(*backend_, config_, config_.n_layers,
                  n_sequences * KvCache::blocks_for(context + n_tokens), model_->kv_dtype());
    measure_gemm();
    for (int round = 0; round <= options_.repeats; ++round) {  // the first one warms up
      roofs_.measure_read(*stream_);
      for (Case& c : cases_) {
        const double seconds = step(c, context, n_tokens, cache);
        if (round > 0) c.best_s = std::min(c.best_s, seconds);
      }
      if (on_progress) on_progress(round, options_.repeats);
    }
    measure_gemm();
    report_.read_gb_per_s = roofs_.read_gb_per_s();
    report_.gemm_gflop_per_s = roofs_.gemm_gflop_per_s();
    for (const Case& c : cases_) {
      const auto tokens = static_cast<double>(n_tokens) * static_cast<double>(c.sequences.size());
      const auto bytes = static_cast<double>(c.bytes);
      report_.entries.push_back(
          {.name = c.name,
           .ms = c.best_s * 1e3,
           .tokens_per_s = tokens / c.best_s,
           .bytes = bytes,
           .of_roof = n_tokens > 1 ? -1 : bytes / c.best_s / 1e9 / report_.read_gb_per_s,
           .ratio = c.best_s / cases_[c.against].best_s});
    }
    return report_;
  }

 private:
  SyntheticDelta delta(uint64_t seed) const {
    return {.kind = options_.delta,
            .bits = options_.bits,
            .vocabulary = options_.vocabulary,
            .seed = seed};
  }

  /// A variant in memory of its own whose codes are those of the others: on a device that changes
  /// no figure, and making 50 GB of random codes would take longer than measuring.
  SyntheticVariant copy_of_delta() {
    if (delta_.empty()) {
      make_synthetic_delta(config_, delta(1),
                           [&](int slot, const MatrixFormat& format, HostTensor blob) {
                             delta_.push_back({slot, format, std::move(blob)});
                           });
    }
    SyntheticVariant out{
        backend_->create_variant(static_cast<int>(expected_tensors(config_).size())), 0};
    for (const auto& [slot, format, blob] : delta_) {
      out.bytes += static_cast<int64_t>(blob.bytes.size());
      out.device->set(slot, format, blob, *stream_);
    }
    stream_->synchronize();
    return out;
  }

  std::unique_ptr<Model> make_model(const Checkpoint& checkpoint) {
    return std::make_unique<Model>(*backend_, checkpoint, config_,
                                   parse_weight_format(options_.base_dtype),
                                   parse_kv_dtype(options_.kv_dtype));
  }

  /// Apart from the steps: threads of the BLAS library look for work for a while after a product,
  /// and would take turns with those of a step.
  void measure_gemm() {
    for (int i = 0; i < 3; ++i) roofs_.measure_gemm(*stream_);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }

  /// Bytes of the base that a decode step reads: all but an embedding that is only looked up.
  int64_t read_bytes() const {
    const int64_t bytes = model_->weights().bytes;
    const bool head_is_table = config_.tied_embeddings &&
                               parse_weight_format(options_.base_dtype) == WeightFormat::kStored;
    return head_is_table ? bytes : bytes - model_->weights().embedding.tensor.bytes();
  }

  double step(Case& c, int64_t context, int64_t n_tokens, KvCache& cache) const {
    const std::vector<int32_t> tokens(static_cast<size_t>(n_tokens), 1);
    std::vector<BatchItem> batch;
    for (size_t i = 0; i < c.sequences.size(); ++i) {
      cache.reserve(c.sequences[i], context + n_tokens);
      c.sequences[i].length = context;
      batch.push_back({tokens, &c.sequences[i], c.variants[i]});
    }
    const auto start = std::chrono::steady_clock::now();
    const auto run = [&](const Model& model, std::span<const BatchItem> items,
                         DecodeMemory& memory) {
      if (Model::is_decode(items)) {
        model.decode(*stream_, items, cache, memory);
      } else {
        const HiddenRows rows = model.forward(*stream_, items, cache);
        model.logits(*stream_, rows, 0, rows.hidden.rows());
      }
    };
    c.decoding.resize(std::max<size_t>(1, c.models.size()));
    if (c.models.empty()) run(*model_, batch, c.decoding[0]);
    for (size_t i = 0; i < c.models.size(); ++i) run(*c.models[i], {&batch[i], 1}, c.decoding[i]);
    stream_->synchronize();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    for (Sequence& sequence : c.sequences) cache.release(sequence);
    return taken.count();
  }

  const BenchOptions& options_;
  ModelConfig config_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  Roofs roofs_;
  std::unique_ptr<Model> model_;
  std::vector<std::unique_ptr<Model>> whole_models_;
  uint64_t n_variants_ = 0;
  std::vector<std::tuple<int, MatrixFormat, HostTensor>> delta_;  // slot, format, blob
  std::vector<Case> cases_;
  BenchReport report_;
};

}  // namespace

BenchReport bench_decode(const BenchOptions& options,
                         const std::function<void(int64_t, int64_t)>& on_progress) {
  check_options(options);
  Bench bench(options);
  const auto batch = static_cast<size_t>(options.batch);
  const auto n_variants = static_cast<size_t>(options.n_variants);
  std::vector<Variant> variants;
  for (size_t i = 0; i < n_variants; ++i) variants.push_back(bench.add_variant());
  const size_t one = bench.add_case("base, 1 sequence", {{}}, 0);
  const size_t many = batch == 1 ? one
                                 : bench.add_case(fmt::format("base, {} sequences", batch),
                                                  std::vector<Variant>(batch), 1);
  size_t mixed = n_variants == 1 ? one : many;
  if (n_variants != 1 && n_variants != batch) {
    mixed = bench.add_case(fmt::format("base, {} sequences", n_variants),
                           std::vector<Variant>(n_variants), many + 1);
  }
  bench.add_case("1 variant, 1 sequence", {variants[0]}, one);
  if (batch > 1) {
    bench.add_case(fmt::format("1 variant, {} sequences", batch),
                   std::vector<Variant>(batch, variants[0]), many);
  }
  if (n_variants > 1)
    bench.add_case(fmt::format("{} variants, 1 sequence each", n_variants), variants, mixed);
  for (const int64_t n : options.mixes) {
    if (n < 1 || n > options.n_variants)
      fail(ErrorCode::kInvalidArgument, "--mixes {}: expected 1 to --variants {}", n,
           options.n_variants);
    const auto count = static_cast<size_t>(n);
    const size_t base =
        bench.add_case(fmt::format("base, {} sequences", n), std::vector<Variant>(count), 0);
    bench.rebase(base, base);
    bench.add_case(fmt::format("{} variants, 1 sequence each", n),
                   {variants.begin(), variants.begin() + n}, base);
  }
  if (options.whole_models) bench.add_whole_models(n_variants, mixed);
  return bench.run(options.context, 1, on_progress);
}

BenchReport bench_prefill(const BenchOptions& options,
                          const std::function<void(int64_t, int64_t)>& on_progress) {
  check_options(options);
  Bench bench(options);
  const Variant variant = bench.add_variant();
  const size_t base = bench.add_case(fmt::format("base, {} tokens", options.prompt), {{}}, 0);
  bench.add_case(fmt::format("1 variant, {} tokens", options.prompt), {variant}, base);
  return bench.run(0, options.prompt, on_progress);
}

}  // namespace deltacome
