// SPDX-License-Identifier: Apache-2.0
// Batches of rows of many variants, for tests of linear() on any backend.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "backend/cpu/linear_oracle.h"

namespace deltacome::cpu::testing {

inline MatrixFormat low_rank(int64_t n_out, int64_t n_in, std::vector<TierFormat> tiers,
                             int64_t added = 0) {
  MatrixFormat format = dense_format(n_out, n_in, {}, added);
  format.codec = Codec::kLowRank;
  format.tiers = std::move(tiers);
  return format;
}
inline TierFormat tier(int64_t rank, int v_bits, int u_bits) {
  return {.rank = rank, .v = {v_bits, 1, 128}, .u = {u_bits, 128, 1}};
}
inline MatrixFormat dense(int64_t n_out, int64_t n_in, int bits, int64_t added = 0) {
  return dense_format(n_out, n_in, {bits, 1, 128}, added);
}
inline MatrixFormat with_gains(MatrixFormat format, bool rows, bool columns) {
  format.row_gain = rows;
  format.col_gain = columns;
  return format;
}

/// One call over segments of variants, each with at most one matrix at slot 0.
struct Mix {
  std::vector<std::optional<MatrixFormat>> variants;
  std::vector<std::pair<int, int64_t>> segments;  // index of variant (-1 = base), rows
};

/// A mix with random deltas on a backend; `create` makes a variant of one slot.
struct MixedBatch {
  std::vector<std::optional<Entry>> entries;  // by variant
  std::vector<VariantSegment> segments;
  std::vector<int> owner;  // of each row: index of its variant

  template <class Create>
  MixedBatch(const Mix& mix, Rng& rng, Stream& stream, const Create& create) {
    std::vector<std::shared_ptr<DeviceVariant>> variants;
    for (const auto& format : mix.variants) {
      variants.push_back(create());
      entries.emplace_back();
      if (!format) continue;
      entries.back() = Entry{*format, random_blob(rng, *format)};
      variants.back()->set(0, *format, entries.back()->blob, stream);
    }
    for (const auto& [index, rows] : mix.segments) {
      segments.push_back({index < 0 ? nullptr : variants[static_cast<size_t>(index)], rows});
      owner.insert(owner.end(), static_cast<size_t>(rows), index);
    }
  }
  int64_t n_rows() const { return static_cast<int64_t>(owner.size()); }
  /// The delta of a row; null: it is the base's.
  const Entry* entry(int64_t row) const {
    const int index = owner[static_cast<size_t>(row)];
    if (index < 0 || !entries[static_cast<size_t>(index)]) return nullptr;
    return &*entries[static_cast<size_t>(index)];
  }
};

}  // namespace deltacome::cpu::testing
