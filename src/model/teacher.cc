// SPDX-License-Identifier: Apache-2.0
#include "model/teacher.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"

namespace deltacome {
namespace {

constexpr int64_t kBatchTokens = 2048;       // of one forward pass
constexpr int64_t kLogitElements = 1 << 22;  // of logits in memory at a time: 16 MiB

/// The k largest of a row in one pass: what is not above the k-th largest so far is skipped, the
/// rest is collected and from time to time cut to k.
class TopSelector {
 public:
  struct Entry {
    float value;
    int32_t id;
  };

  explicit TopSelector(int64_t k) : k_(static_cast<size_t>(k)), room_(2 * k_ + 64) {
    entries_.reserve(room_);
  }

  /// Largest first, of equals the smaller id. Valid until the next call.
  std::span<const Entry> select(std::span<const float> row) {
    entries_.clear();
    float bar = -std::numeric_limits<float>::infinity();
    bool full = false;  // bar is the k-th largest so far
    for (size_t i = 0; i < row.size(); ++i) {
      // An equal one that comes later has the larger id.
      if (full && !(row[i] > bar)) continue;
      entries_.push_back({row[i], static_cast<int32_t>(i)});
      if (entries_.size() == room_) {
        cut();
        bar = entries_.back().value;
        full = true;
      }
    }
    if (entries_.size() > k_) cut();
    std::ranges::sort(entries_, before);
    return entries_;
  }

 private:
  static bool before(const Entry& a, const Entry& b) {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
  }
  /// Leaves the k largest, the least of them at the end.
  void cut() {
    std::ranges::nth_element(entries_, entries_.begin() + static_cast<int64_t>(k_) - 1, before);
    entries_.resize(k_);
  }

  size_t k_;
  size_t room_;
  std::vector<Entry> entries_;
};

double log_normalizer(std::span<const float> row, float largest) {
  double sum = 0;
  for (const float value : row)
    sum += std::exp(static_cast<double>(value) - static_cast<double>(largest));
  return static_cast<double>(largest) + std::log(sum);
}

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
  const auto vocab = static_cast<size_t>(vocab_limit > 0 ? std::min(width, vocab_limit) : width);
  TopTargets out;
  out.k = std::min(k, static_cast<int64_t>(vocab));
  TopSelector selector(out.k);
  std::vector<float> logits;  // [rows of a piece, width]
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
      logits.resize(static_cast<size_t>(count * width));
      model.backend().download(stream, model.logits(stream, rows, first, count),
                               std::as_writable_bytes(std::span(logits)));
      for (int64_t i = 0; i < count; ++i) {
        const auto row = std::span(logits).subspan(static_cast<size_t>(i * width), vocab);
        const std::span<const TopSelector::Entry> top = selector.select(row);
        const double log_sum = log_normalizer(row, top.front().value);
        for (const auto& [value, id] : top) {
          out.ids.push_back(id);
          out.log_p.push_back(static_cast<float>(static_cast<double>(value) - log_sum));
        }
      }
    }
    begin = end;
    if (on_progress) on_progress(static_cast<int64_t>(end));
  }
  return out;
}

}  // namespace deltacome
