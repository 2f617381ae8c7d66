// SPDX-License-Identifier: Apache-2.0
#include "quant/kept_codes.h"

#include <algorithm>
#include <cmath>

#include "core/dtype.h"
#include "quant/coded_products.h"

namespace deltacome {
namespace {

float zero_of(const QuantizedMatrix& m, size_t at) {
  return m.zeros.empty() ? 0.0F : m.zeros[at];
}

/// What rounding the scales to fp16 costs.
double scale_loss(const QuantizedMatrix& m) {
  const auto off = [](float scale) {
    return static_cast<double>(f16_to_float(float_to_f16(scale))) - static_cast<double>(scale);
  };
  if (std::ranges::all_of(m.scales, [&](float scale) { return off(scale) == 0; })) return 0;
  double error = 0, energy = 0;  // sums of squares
  for (int64_t o = 0; o < m.n_out; ++o) {
    for (int64_t g = 0; g < m.n_groups(); ++g) {
      const auto at = static_cast<size_t>(o * m.n_groups() + g);
      const auto zero = static_cast<double>(zero_of(m, at));
      const uint8_t* codes = m.codes.data() + o * m.n_in;
      double levels = 0;
      for (int64_t i = g * m.group; i < std::min((g + 1) * m.group, m.n_in); ++i)
        levels += (codes[i] - zero) * (codes[i] - zero);
      const double scale = static_cast<double>(m.scales[at]), by = off(m.scales[at]);
      error += by * by * levels;
      energy += scale * scale * levels;
    }
  }
  return energy > 0 ? std::sqrt(error / energy) : 0;
}

}  // namespace

int64_t KeptCodes::bytes_of(const QuantizedMatrix& matrix) const noexcept {
  const int64_t row_bytes = (matrix.n_in * matrix.bits + 7) / 8 + (by_row ? 4 : 2 * n_sums) +
                            (zeros.empty() ? 0 : 4 * n_sums);
  return matrix.n_out * row_bytes + 4 * static_cast<int64_t>(matrix.order.size());
}

bool keeps_codes(const QuantizedMatrix& matrix) noexcept {
  return matrix.is_uniform() &&
         (matrix.group >= matrix.n_in || matrix.group % kActivationGroup == 0);
}

KeptCodes kept_codes(const QuantizedMatrix& m, float center) {
  KeptCodes kept;
  kept.by_row = m.group >= m.n_in;
  kept.n_sums = kept.by_row ? 1 : (m.n_in + kActivationGroup - 1) / kActivationGroup;
  const auto n = static_cast<size_t>(m.n_out * kept.n_sums);
  kept.zeros.resize(n);
  if (kept.by_row) {
    kept.row_scales = m.scales;
  } else {
    kept.group_scales.resize(n);
    kept.relative_error = scale_loss(m);
  }
  for (int64_t o = 0; o < m.n_out; ++o) {
    for (int64_t g = 0; g < kept.n_sums; ++g) {
      const int64_t of = kept.by_row ? 0 : g * kActivationGroup / m.group;
      const auto from = static_cast<size_t>(o * m.n_groups() + of),
                 to = static_cast<size_t>(o * kept.n_sums + g);
      float scale = m.scales[from];
      if (!kept.by_row) {
        kept.group_scales[to] = float_to_f16(scale);
        scale = f16_to_float(kept.group_scales[to]);
      }
      kept.zeros[to] = scale * (center - zero_of(m, from));
    }
  }
  if (std::ranges::all_of(kept.zeros, [](float zero) { return zero == 0; })) kept.zeros = {};
  return kept;
}

bool has_one_zero(const QuantizedMatrix& matrix, float& zero) noexcept {
  zero = matrix.zeros.empty() ? 0.0F : matrix.zeros.front();
  return std::ranges::all_of(matrix.zeros, [&](float other) { return other == zero; });
}

}  // namespace deltacome
