// SPDX-License-Identifier: Apache-2.0
#include "model/model.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/check.h"
#include "model/given_rows.h"

namespace deltacome {
namespace {

/// Adds n rows of a variant to the end of a list of segments.
void append_rows(std::vector<VariantSegment>& segments,
                 const std::shared_ptr<const DeviceVariant>& variant, int64_t n) {
  if (n == 0) return;
  if (!segments.empty() && segments.back().variant == variant) {
    segments.back().n_rows += n;
  } else {
    segments.push_back({variant, n});
  }
}

/// The part of `segments` that covers rows [first, first + count).
std::vector<VariantSegment> cut(std::span<const VariantSegment> segments, int64_t first,
                                int64_t count) {
  std::vector<VariantSegment> out;
  int64_t begin = 0;
  for (const VariantSegment& segment : segments) {
    const int64_t end = begin + segment.n_rows;
    const int64_t overlap = std::min(end, first + count) - std::max(begin, first);
    if (overlap > 0) append_rows(out, segment.variant, overlap);
    begin = end;
  }
  return out;
}

}  // namespace

Model::Model(Backend& backend, const Checkpoint& checkpoint, ModelConfig config,
             WeightFormat format, DType kv_dtype)
    : backend_(backend),
      config_(std::move(config)),
      weights_(load_weights(backend, checkpoint, config_, format)),
      kv_dtype_(kv_dtype) {}

/// A batch laid out as rows: what the plans and the first op need.
struct Model::Rows {
  struct Given {
    int64_t first = 0, count = 0;  // rows of an item
    Tensor table;
  };
  std::vector<int32_t> ids;     // a token, or given row, per row
  std::vector<Given> given;     // of the items that have any
  std::vector<int32_t> wanted;  // rows whose hidden state is asked for
  std::vector<VariantSegment> segments;
  std::vector<SequenceChunk> chunks;
};

Model::Rows Model::lay_out(std::span<const BatchItem> batch, KvCache& cache,
                           HiddenRows& out) const {
  Rows rows;
  for (const BatchItem& item : batch) {
    DELTACOME_CHECK(item.sequence != nullptr && !item.tokens.empty());
    const int64_t n = static_cast<int64_t>(item.tokens.size()), vocab = vocab_size(item.variant);
    const int64_t n_given = item.given.empty() ? 0 : item.given.rows();
    if (n_given > 0) rows.given.push_back({static_cast<int64_t>(rows.ids.size()), n, item.given});
    for (const int32_t id : item.tokens) {
      if (id >= -n_given && id < vocab) continue;
      fail(ErrorCode::kInvalidArgument, "token id {} is outside of the vocabulary of {}", id,
           vocab);
    }
    cache.reserve(*item.sequence, item.sequence->length + n);
    rows.chunks.push_back({n, item.sequence->length, item.sequence->blocks});
    append_rows(rows.segments, item.variant.device, n);
    rows.ids.insert(rows.ids.end(), item.tokens.begin(), item.tokens.end());
    const int64_t n_wanted = item.wanted == BatchItem::Rows::kAll    ? n
                             : item.wanted == BatchItem::Rows::kLast ? 1
                                                                     : 0;
    const auto end = static_cast<int64_t>(rows.ids.size());
    for (int64_t i = end - n_wanted; i < end; ++i) rows.wanted.push_back(static_cast<int32_t>(i));
    append_rows(out.segments, item.variant.device, n_wanted);
    out.vocab_size = std::max(out.vocab_size, vocab);
  }
  return rows;
}

void Model::run_layers(const LayerRun& run, KvCache& cache, const Tensor& hidden) const {
  const Workspace work(backend_, config_, hidden.rows());
  attention_input(run, weights_.layers.front(), hidden, work);
  for (int64_t i = 0; i < config_.n_layers; ++i) {
    const LayerWeights& layer = weights_.layers[static_cast<size_t>(i)];
    attention_mix(run, layer, i, cache.keys(i), cache.values(i), work);
    attention_output_and_mlp_input(run, layer, work, hidden);
    mlp_mix(run, layer, work);
    if (i + 1 < config_.n_layers) {
      const LayerWeights& next = weights_.layers[static_cast<size_t>(i + 1)];
      mlp_output_and_attention_input(run, layer, next, work, hidden);
    } else {
      mlp_output(run, layer, work, hidden);
    }
    layer_done(i);
  }
}

HiddenRows Model::forward(Stream& stream, std::span<const BatchItem> batch, KvCache& cache) const {
  HiddenRows out;
  const Rows rows = lay_out(batch, cache, out);
  const auto n_rows = static_cast<int64_t>(rows.ids.size());
  const auto variants = backend_.plan_variants(rows.segments);
  const auto attention = backend_.plan_attention(rows.chunks);
  const LayerRun run{backend_, stream, config_, *variants, *attention, weights_.inv_freq};
  const Tensor hidden = backend_.allocate(DType::kF32, {n_rows, config_.hidden_size});
  backend_.embed(stream, *variants, weights_.embedding.slot, lookup_ids(rows.ids),
                 weights_.embedding.tensor, hidden);
  for (const auto& [first, count, given] : rows.given) {
    const auto ids =
        std::span(rows.ids).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    put_given_rows(backend_, stream, ids, given, hidden.slice(first, count));
  }
  run_layers(run, cache, hidden);
  for (const BatchItem& item : batch)
    item.sequence->length += static_cast<int64_t>(item.tokens.size());

  out.hidden = backend_.allocate(DType::kF32,
                                 {static_cast<int64_t>(rows.wanted.size()), config_.hidden_size});
  if (rows.wanted.empty()) return out;
  backend_.gather_rows(stream, hidden, rows.wanted, out.hidden);
  const auto wanted_variants = backend_.plan_variants(out.segments);
  backend_.rms_norm(stream, *wanted_variants, weights_.final_norm.slot, out.hidden,
                    weights_.final_norm.tensor, config_.rms_norm_eps, out.hidden);
  return out;
}

Tensor Model::logits(Stream& stream, const HiddenRows& rows, int64_t first, int64_t count) const {
  const Tensor y = backend_.allocate(DType::kF32, {count, rows.vocab_size});
  if (count == 0) return y;
  const std::vector<VariantSegment> segments = cut(rows.segments, first, count);
  const auto variants = backend_.plan_variants(segments);
  const std::array targets{target({weights_.head, {}}, y)};
  backend_.linear(stream, *variants, rows.hidden.slice(first, count), targets);
  return y;
}

bool Model::is_decode(std::span<const BatchItem> batch) noexcept {
  constexpr size_t kMost = 256;  // sequences of a step: each number of them is recorded on its own
  return !batch.empty() && batch.size() <= kMost &&
         std::ranges::all_of(batch, [](const BatchItem& item) {
           return item.tokens.size() == 1 && item.tokens.front() >= 0 &&
                  item.wanted == BatchItem::Rows::kLast;
         });
}

Tensor Model::decode(Stream& stream, std::span<const BatchItem> batch, KvCache& cache,
                     DecodeMemory& memory) const {
  DELTACOME_CHECK(is_decode(batch));
  const auto n = static_cast<int64_t>(batch.size());
  if (!memory.begun) memory.recorder = backend_.create_step_recorder();
  memory.begun = true;
  if (memory.recorder == nullptr || on_layer_done_) {
    const HiddenRows rows = forward(stream, batch, cache);
    return logits(stream, rows, 0, n);
  }
  HiddenRows out;
  const Rows rows = lay_out(batch, cache, out);
  const auto grow = [&](Tensor& tensor, int64_t elements) {
    if (!tensor.empty() && tensor.size() >= elements) return;
    memory.recorder = backend_.create_step_recorder();  // what is recorded names the old one
    tensor = {};
    tensor = backend_.allocate(DType::kF32, {2 * elements});
  };
  grow(memory.hidden, n * config_.hidden_size);
  grow(memory.logits, n * out.vocab_size);
  const auto part = [](const Tensor& tensor, int64_t n_rows, int64_t cols) {
    return tensor.reshaped({tensor.size()}).slice(0, n_rows * cols).reshaped({n_rows, cols});
  };
  const Tensor hidden = part(memory.hidden, n, config_.hidden_size);
  const Tensor logits = part(memory.logits, n, out.vocab_size);
  const std::array<int64_t, 3> key{
      n, out.vocab_size,
      static_cast<int64_t>(reinterpret_cast<intptr_t>(cache.keys(0).storage.get()))};
  const StepRecorder::Plans plans = memory.recorder->begin(stream, key, rows.segments, rows.chunks);
  backend_.embed(stream, plans.variants, weights_.embedding.slot, rows.ids,
                 weights_.embedding.tensor, hidden);
  memory.recorder->run(stream, [&] {
    const LayerRun run{backend_,       stream,          config_,
                       plans.variants, plans.attention, weights_.inv_freq};
    run_layers(run, cache, hidden);
    backend_.rms_norm(stream, plans.variants, weights_.final_norm.slot, hidden,
                      weights_.final_norm.tensor, config_.rms_norm_eps, hidden);
    const std::array targets{target({weights_.head, {}}, logits)};
    backend_.linear(stream, plans.variants, hidden, targets);
  });
  for (const BatchItem& item : batch) ++item.sequence->length;
  return logits;
}

}  // namespace deltacome
