// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/top_tokens.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "backend/cpu/cpu_memory.h"

namespace deltacome::cpu {
namespace {

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

}  // namespace

void top_tokens(const Runtime& runtime, const Tensor& logits, int64_t n_vocab, const Tensor& ids,
                const Tensor& log_p) {
  const int64_t n = logits.rows(), k = ids.cols();
  DELTACOME_CHECK(n_vocab <= logits.cols() && k > 0 && k <= n_vocab);
  DELTACOME_CHECK(ids.dtype == DType::kI32 && ids.rows() == n && log_p.size() == n * k);
  auto* to_ids = reinterpret_cast<int32_t*>(bytes_of(ids));
  runtime.pool.parallel_for(n, 8, [&](int64_t begin, int64_t end) {
    TopSelector selector(k);
    for (int64_t r = begin; r < end; ++r) {
      const std::span<const float> row(f32(logits) + r * logits.cols(),
                                       static_cast<size_t>(n_vocab));
      const std::span<const TopSelector::Entry> top = selector.select(row);
      const double log_sum = log_normalizer(row, top.front().value);
      for (int64_t i = 0; i < k; ++i) {
        const auto& [value, id] = top[static_cast<size_t>(i)];
        to_ids[r * k + i] = id;
        f32(log_p)[r * k + i] = static_cast<float>(static_cast<double>(value) - log_sum);
      }
    }
  });
}

}  // namespace deltacome::cpu
