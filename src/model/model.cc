// SPDX-License-Identifier: Apache-2.0
#include "model/model.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/check.h"

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

Model::Model(Backend& backend, const Checkpoint& checkpoint, ModelConfig config)
    : backend_(backend),
      config_(std::move(config)),
      weights_(load_weights(backend, checkpoint, config_)) {}

HiddenRows Model::forward(Stream& stream, std::span<const BatchItem> batch, KvCache& cache) const {
  std::vector<int32_t> ids, wanted;
  std::vector<VariantSegment> segments;
  std::vector<SequenceChunk> chunks;
  HiddenRows out;
  for (const BatchItem& item : batch) {
    DELTACOME_CHECK(item.sequence != nullptr && !item.tokens.empty());
    const auto n = static_cast<int64_t>(item.tokens.size());
    for (const int32_t id : item.tokens) {
      if (id < 0 || id >= vocab_size(item.variant)) {
        fail(ErrorCode::kInvalidArgument, "token id {} is outside of the vocabulary of {}", id,
             vocab_size(item.variant));
      }
    }
    cache.reserve(*item.sequence, item.sequence->length + n);
    chunks.push_back({n, item.sequence->length, item.sequence->blocks});
    append_rows(segments, item.variant.device, n);
    const auto first = static_cast<int32_t>(ids.size());
    ids.insert(ids.end(), item.tokens.begin(), item.tokens.end());
    const int64_t n_wanted = item.wanted == BatchItem::Rows::kAll    ? n
                             : item.wanted == BatchItem::Rows::kLast ? 1
                                                                     : 0;
    for (int64_t i = n - n_wanted; i < n; ++i) wanted.push_back(first + static_cast<int32_t>(i));
    append_rows(out.segments, item.variant.device, n_wanted);
    out.vocab_size = std::max(out.vocab_size, vocab_size(item.variant));
  }

  const auto n_rows = static_cast<int64_t>(ids.size());
  const auto variants = backend_.plan_variants(segments);
  const auto attention = backend_.plan_attention(chunks);
  const LayerRun run{backend_, stream, config_, *variants, *attention, weights_.inv_freq};
  const Workspace work(backend_, config_, n_rows);
  const Tensor hidden = backend_.allocate(DType::kF32, {n_rows, config_.hidden_size});
  backend_.embed(stream, *variants, weights_.embedding.slot, ids, weights_.embedding.tensor,
                 hidden);
  for (int64_t i = 0; i < config_.n_layers; ++i) {
    const LayerWeights& layer = weights_.layers[static_cast<size_t>(i)];
    attention_input(run, layer, hidden, work);
    attention_mix(run, layer, i, cache.keys(i), cache.values(i), work);
    attention_output(run, layer, work, hidden);
    mlp_input(run, layer, hidden, work);
    mlp_mix(run, layer, work);
    mlp_output(run, layer, work, hidden);
  }
  for (const BatchItem& item : batch)
    item.sequence->length += static_cast<int64_t>(item.tokens.size());

  out.hidden =
      backend_.allocate(DType::kF32, {static_cast<int64_t>(wanted.size()), config_.hidden_size});
  if (wanted.empty()) return out;
  backend_.gather_rows(stream, hidden, wanted, out.hidden);
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
  const std::array targets{
      LinearTarget{.slot = weights_.head.slot, .weight = weights_.head.tensor, .y = y}};
  backend_.linear(stream, *variants, rows.hidden.slice(first, count), targets);
  return y;
}

}  // namespace deltacome
