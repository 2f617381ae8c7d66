// SPDX-License-Identifier: Apache-2.0
#include "compress/plan.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/check.h"

namespace deltacome {
namespace {

constexpr double kPublishedSize = 4096;  // the shape that the published mix was chosen for
constexpr double kPublished8Bit = 2;
constexpr double kPublished3Bit = 32;
constexpr int kEmbeddingBits = 4;
constexpr int kVisionBits = 8;

/// Codes of V [rank, n_in] and U^T [rank, n_out]. V has a scale per component and group of inputs.
/// U has one per output and group of components if the tier fills a group; smaller tiers take one
/// per component and group of outputs, which is cheaper there (rank * n_out / group scales instead
/// of n_out).
TierFormat tier_of(int64_t rank, int bits, int64_t group) {
  if (bits == 16) return {.rank = rank, .v = {16, 1, 0}, .u = {16, 1, 0}};
  const bool fills_group = rank >= group;
  return {.rank = rank,
          .v = {bits, 1, group},
          .u = fills_group ? ArrayFormat{bits, group, 1} : ArrayFormat{bits, 1, group}};
}

/// Tiers of a matrix: how many components, and the bits of their vectors.
using Mix = std::vector<std::pair<int64_t, int>>;

MatrixFormat low_rank(const Shape& shape, int64_t group, const Mix& tiers) {
  MatrixFormat format{
      .codec = Codec::kLowRank, .shape = shape, .base_rows = shape[0], .dense = {}, .tiers = {}};
  for (const auto& [rank, bits] : tiers) {
    if (rank > 0) format.tiers.push_back(tier_of(rank, bits, group));
  }
  return format;
}

/// The largest rank in [0, limit] whose format fits the budget; bytes(rank) need not be monotone
/// where a tier begins to fill a group, so the search walks down from the first rank that is surely
/// too large.
template <class Make>
int64_t largest_rank(int64_t limit, int64_t budget_bytes, int64_t least_bytes_per_rank,
                     const Make& make) {
  int64_t rank = std::min(limit, budget_bytes / std::max<int64_t>(1, least_bytes_per_rank) + 1);
  while (rank > 0 && layout_of(make(rank)).total_bytes > budget_bytes) --rank;
  return rank;
}

/// Spends what a budget has left after the last component on widths: as many components as fit go
/// from 2 to 3 bits; if all did, from 3 to 8, and from 8 to 16.
void raise_widths(Mix& mix, const Shape& shape, int64_t group, int64_t budget) {
  for (size_t to = 3; to-- > 0;) {
    const int64_t fine = mix[to].first, coarse = mix[to + 1].first;
    const auto move = [&](int64_t n) {
      mix[to].first = fine + n;
      mix[to + 1].first = coarse - n;
      return low_rank(shape, group, mix);
    };
    move(largest_rank(coarse, budget, 1, move));
    if (mix[to + 1].first > 0) return;
  }
}

MatrixFormat plan_come(const Shape& shape, int64_t budget, int64_t group) {
  const int64_t full = std::min(shape[0], shape[1]);
  const auto scaled = [&](double published) {
    return std::max<int64_t>(1,
                             std::llround(published * static_cast<double>(full) / kPublishedSize));
  };
  int64_t n8 = scaled(kPublished8Bit), n3 = scaled(kPublished3Bit);
  const auto bytes = [&](int64_t r8, int64_t r3) {
    return layout_of(low_rank(shape, group, {{r8, 8}, {r3, 3}})).total_bytes;
  };
  // The precise tiers may take at most half of a small budget.
  while (n8 + n3 > 1 && bytes(n8, n3) > budget / 2) --(n3 > 0 ? n3 : n8);
  Mix mix{{0, 16}, {n8, 8}, {n3, 3}, {0, 2}};
  const int64_t per_rank = 2 * (shape[0] + shape[1]) / 8;
  mix[3].first = largest_rank(full - n8 - n3, budget, per_rank, [&](int64_t r) {
    mix[3].first = r;
    return low_rank(shape, group, mix);
  });
  if (n8 + n3 + mix[3].first == full) raise_widths(mix, shape, group, budget);
  MatrixFormat format = low_rank(shape, group, mix);
  if (layout_of(format).total_bytes <= budget) return format;
  return low_rank(shape, group, {{1, 2}});  // the least that there is; the caller checks it
}

}  // namespace

MatrixFormat plan_projection(Method method, const Shape& shape, double bits, int64_t group) {
  DELTACOME_CHECK(shape.size() == 2);
  const auto weights = static_cast<double>(shape[0] * shape[1]);
  const auto budget = static_cast<int64_t>(std::floor(bits * weights / 8));
  MatrixFormat format;
  switch (method) {
    case Method::kBitDelta:
      return {.codec = Codec::kDense,
              .shape = shape,
              .base_rows = shape[0],
              .dense = {1, 0, 0},
              .tiers = {}};
    case Method::kLowRank: {
      const int64_t rank = largest_rank(std::min(shape[0], shape[1]), budget,
                                        2 * (shape[0] + shape[1]), [&](int64_t r) {
                                          return low_rank(shape, group, {{r, 16}});
                                        });
      format = low_rank(shape, group, {{std::max<int64_t>(rank, 1), 16}});
      break;
    }
    case Method::kAuto:
      DELTACOME_CHECK(false);  // allocate() plans it
    case Method::kCome:
      format = plan_come(shape, budget, group);
      break;
  }
  if (const int64_t bytes = layout_of(format).total_bytes; bytes > budget) {
    fail(ErrorCode::kInvalidArgument,
         "--bits {} holds no component of a {} projection: one needs {:.4f} bits per weight", bits,
         to_string(shape), 8 * static_cast<double>(bytes) / weights);
  }
  return format;
}

MatrixFormat plan_embedding(const Shape& shape, int64_t base_rows, DType dtype, int64_t group) {
  return {.codec = Codec::kDense,
          .shape = shape,
          .raw_dtype = dtype,
          .base_rows = std::min(base_rows, shape[0]),
          .dense = {kEmbeddingBits, 1, group},
          .tiers = {}};
}

MatrixFormat plan_vision(const HostTensor& finetuned, int bits, int64_t group) {
  const bool matrix = finetuned.shape.size() > 1;
  MatrixFormat format{.codec = Codec::kRaw,
                      .shape = finetuned.shape,
                      .raw_dtype = finetuned.dtype,
                      .base_rows = finetuned.rows(),
                      .dense = {},
                      .tiers = {}};
  if (matrix) format.shape = {finetuned.rows(), finetuned.cols()};  // of a convolution too
  if (!matrix || bits != kVisionBits) return format;
  format.codec = Codec::kDense;
  format.dense = {kVisionBits, 1, group};
  return format;
}

}  // namespace deltacome
