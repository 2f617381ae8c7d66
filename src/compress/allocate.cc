// SPDX-License-Identifier: Apache-2.0
#include "compress/allocate.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/check.h"
#include "quant/vector_codes.h"

namespace deltacome {
namespace {

/// Relative squared error of a mid-rise code of a Gaussian with the scale of least error, by bits.
double scalar_error(int bits) {
  switch (bits) {
    case 1:
      return 0.363;
    case 2:
      return 0.119;
    case 3:
      return 0.037;
    case 4:
      return 0.0115;
    default:
      return 5e-5;
  }
}

struct Widths {
  int v, u;
};
/// From coarse to fine; V the coarser, because U is solved for the quantized V.
constexpr std::array<Widths, 8> kWidths = {
    {{1, 1}, {1, 2}, {2, 2}, {2, 3}, {3, 3}, {3, 4}, {4, 4}, {8, 8}}};
static_assert(kWidths.size() <= kMaxTiers);  // a tier for each pair
constexpr std::array<int, 3> kDenseBits = {3, 4, 8};
constexpr double kStep = 1.25;    // between the prices that low-rank options are made for
constexpr double kRange = 1e8;    // of these prices
constexpr int64_t kRankStep = 8;  // of tiers, where there are at least kSmallRank components
constexpr int64_t kSmallRank = 128;

struct Option {
  std::optional<MatrixFormat> format;
  int64_t bytes = 0;
  double loss = 0;
};

double error_of(const Widths& w) {
  return 1 - (1 - scalar_error(w.v)) * (1 - scalar_error(w.u));
}

MatrixFormat empty_format(const MatrixCurve& curve, Codec codec, const AllocationRules& rules) {
  MatrixFormat format{
      .codec = codec, .shape = curve.shape, .base_rows = curve.shape[0], .dense = {}, .tiers = {}};
  format.col_gain = rules.column_gains;
  return format;
}

/// Tiers of components at a price of KL per byte: each takes the widths of least loss plus price.
Option low_rank_at(const MatrixCurve& curve, double price, const AllocationRules& rules) {
  const int64_t n_out = curve.shape[0], n_in = curve.shape[1];
  const double weight = curve.low_rank_weight * curve.sensitivity;
  std::array<int64_t, kWidths.size()> count{};
  for (const double e : curve.components) {
    double least = weight * e;  // dropped
    int best = -1;
    for (size_t w = 0; w < kWidths.size(); ++w) {
      const double bytes = static_cast<double>(kWidths[w].v * n_in + kWidths[w].u * n_out) / 8 + 2;
      const double cost = weight * e * error_of(kWidths[w]) + price * bytes;
      if (cost < least) {
        least = cost;
        best = static_cast<int>(w);
      }
    }
    if (best < 0) break;  // the rest is smaller
    ++count[static_cast<size_t>(best)];
  }
  Option out;
  out.format = empty_format(curve, Codec::kLowRank, rules);
  out.format->row_gain = true;
  const auto n = static_cast<int64_t>(curve.components.size());
  const int64_t step = n >= kSmallRank ? kRankStep : 1;
  int64_t first = 0, carried = 0;
  double kept_loss = 0, kept = 0;
  for (size_t w = kWidths.size(); w-- > 0;) {
    const int64_t wanted = count[w] + carried;
    const int64_t rank = wanted / step * step;  // what is left goes to the next coarser tier
    carried = wanted - rank;
    if (rank == 0) continue;
    out.format->tiers.push_back(
        {.rank = rank, .v = {kWidths[w].v, 0, 0}, .u = {kWidths[w].u, 0, 0}});
    for (int64_t i = first; i < first + rank; ++i) {
      kept += curve.components[static_cast<size_t>(i)];
      kept_loss += curve.components[static_cast<size_t>(i)] * error_of(kWidths[w]);
    }
    first += rank;
  }
  if (first == 0) return {std::nullopt, 0, unbiased_error(1) * weight * curve.energy};
  out.bytes = layout_of(*out.format).total_bytes;
  if (curve.energy > 0) {
    const double error = (kept_loss + std::max(0.0, curve.energy - kept)) / curve.energy;
    out.loss = weight * curve.energy * unbiased_error(std::min(error, 1.0));
  }
  return out;
}

std::vector<Option> options_of(const MatrixCurve& curve, const AllocationRules& rules) {
  const double nothing = unbiased_error(1) * curve.sensitivity * curve.energy *
                         std::max(curve.low_rank_weight, curve.whole_weight);
  std::vector<Option> out{{std::nullopt, 0, nothing}};
  const double whole = curve.whole_weight * curve.sensitivity * curve.energy;
  if (curve.whole_weight > 0) {
    for (const int dim : kBookDimensions) {
      Option option{empty_format(curve, Codec::kVector, rules), 0,
                    whole * unbiased_error(code_book_error(dim))};
      option.format->vector = {dim, rotation_block(curve.shape[1]), rules.rotation_seed};
      out.push_back(std::move(option));
    }
    for (const int bits : kDenseBits) {
      Option option{empty_format(curve, Codec::kDense, rules), 0,
                    whole * unbiased_error(scalar_error(bits))};
      option.format->col_gain = false;
      option.format->dense = {bits, 1, 0};
      out.push_back(std::move(option));
    }
    for (Option& option : out) {
      if (option.format) option.bytes = layout_of(*option.format).total_bytes;
    }
  }
  if (curve.low_rank_weight > 0 && !curve.components.empty()) {
    const double bytes = static_cast<double>(curve.shape[0] + curve.shape[1]) / 8;
    const double highest = curve.low_rank_weight * curve.sensitivity * curve.components[0] / bytes;
    for (double price = highest; price > highest / kRange; price /= kStep) {
      Option option = low_rank_at(curve, price, rules);
      if (option.format && option.bytes != out.back().bytes) out.push_back(std::move(option));
    }
  }
  return out;
}

const Option& best_at(const std::vector<Option>& options, double price) {
  return *std::min_element(options.begin(), options.end(), [&](const Option& a, const Option& b) {
    return a.loss + price * static_cast<double>(a.bytes) <
           b.loss + price * static_cast<double>(b.bytes);
  });
}

}  // namespace

double unbiased_error(double e) {
  return e / std::max(1 - e, 0.1);
}

std::vector<Allocated> allocate(const std::vector<MatrixCurve>& curves, int64_t budget_bytes,
                                const AllocationRules& rules) {
  std::vector<std::vector<Option>> options;
  for (const MatrixCurve& curve : curves) options.push_back(options_of(curve, rules));
  std::vector<const Option*> chosen(curves.size());
  const auto choose = [&](double price) {
    int64_t bytes = 0;
    for (size_t m = 0; m < options.size(); ++m) {
      chosen[m] = &best_at(options[m], price);
      bytes += chosen[m]->bytes;
    }
    return bytes;
  };
  double low = 1e-40, high = 1e20;
  for (int i = 0; i < 300 && high / low > 1 + 1e-9; ++i) {
    const double middle = std::sqrt(low * high);
    (choose(middle) > budget_bytes ? low : high) = middle;
  }
  int64_t left = budget_bytes - choose(high);
  for (;;) {  // the best single step that still fits
    const Option* step = nullptr;
    size_t where = 0;
    double best = 0;
    for (size_t m = 0; m < options.size(); ++m) {
      for (const Option& option : options[m]) {
        const int64_t more = option.bytes - chosen[m]->bytes;
        const double gain = chosen[m]->loss - option.loss;
        if (gain <= 0 || more > left) continue;
        const double rate = gain / static_cast<double>(std::max<int64_t>(more, 1));
        if (rate > best) {
          best = rate;
          step = &option;
          where = m;
        }
      }
    }
    if (step == nullptr) break;
    left -= step->bytes - chosen[where]->bytes;
    chosen[where] = step;
  }
  std::vector<Allocated> out;
  for (const Option* option : chosen) out.push_back({option->format, option->loss});
  return out;
}

}  // namespace deltacome
