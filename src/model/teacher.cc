// SPDX-License-Identifier: Apache-2.0
#include "model/teacher.h"

#include <algorithm>

#include "backend/training_ops.h"
#include "core/check.h"

namespace deltacome {
namespace {

constexpr int64_t kBatchTokens = 2048;       // of one forward pass
constexpr int64_t kLogitElements = 1 << 22;  // of logits in memory at a time: 16 MiB

/// Hidden states of all positions of a batch, in order.
HiddenRows run(const Model& model, const Variant& variant, Stream& stream,
               std::span<const std::vector<int32_t>> batch, const Tensor& given) {
  int64_t blocks = 0;
  for (const std::vector<int32_t>& tokens : batch)
    blocks += KvCache::blocks_for(static_cast<int64_t>(tokens.size()));
  KvCache cache(model.backend(), model.config(), model.config().n_layers, blocks);
  std::vector<Sequence> sequences(batch.size());
  std::vector<BatchItem> items;
  for (size_t i = 0; i < batch.size(); ++i)
    items.push_back({batch[i], &sequences[i], variant, BatchItem::Rows::kAll, given});
  return model.forward(stream, items, cache);
}

}  // namespace

TopTargets top_targets(const Model& model, const Variant& variant, Stream& stream,
                       std::span<const std::vector<int32_t>> sequences, int64_t k,
                       int64_t vocab_limit, const std::function<void(int64_t)>& on_progress,
                       const Tensor& given) {
  DELTACOME_CHECK(k > 0 && vocab_limit >= 0);
  const int64_t width = model.vocab_size(variant);
  const int64_t vocab = vocab_limit > 0 ? std::min(width, vocab_limit) : width;
  TopTargets out;
  out.k = std::min(k, vocab);
  TrainingOps& ops = model.backend().training();
  const auto append = [&](const Tensor& from, auto& to) {
    const size_t before = to.size();
    to.resize(before + static_cast<size_t>(from.size()));
    model.backend().download(stream, from, std::as_writable_bytes(std::span(to).subspan(before)));
  };
  size_t begin = 0;
  while (begin < sequences.size()) {
    size_t end = begin;
    int64_t n_tokens = 0;
    while (
        end < sequences.size() &&
        (end == begin || n_tokens + static_cast<int64_t>(sequences[end].size()) <= kBatchTokens)) {
      n_tokens += static_cast<int64_t>(sequences[end++].size());
    }
    const HiddenRows rows =
        run(model, variant, stream, sequences.subspan(begin, end - begin), given);
    const int64_t piece = std::clamp<int64_t>(kLogitElements / width, 1, n_tokens);
    for (int64_t first = 0; first < n_tokens; first += piece) {
      const int64_t count = std::min(piece, n_tokens - first);
      const Tensor ids = model.backend().allocate(DType::kI32, {count, out.k});
      const Tensor log_p = model.backend().allocate(DType::kF32, {count, out.k});
      ops.top_tokens(stream, model.logits(stream, rows, first, count), vocab, ids, log_p);
      append(ids, out.ids);
      append(log_p, out.log_p);
    }
    begin = end;
    if (on_progress) on_progress(static_cast<int64_t>(end));
  }
  return out;
}

}  // namespace deltacome
