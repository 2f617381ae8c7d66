// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>

#include "backend/cpu/weight.h"
#include "backend/cpu/weight_codes.h"
#include "core/check.h"

namespace deltacome::cpu {
namespace {

/// What a layout loses, over all rows.
struct Loss {
  double error = 0, energy = 0;  // sums of squares
  double relative() const { return energy > 0 ? std::sqrt(error / energy) : 0; }
};

/// Whether codes and scales fit the packed layouts as they are.
bool has_layout(const QuantizedMatrix& m) {
  return m.is_uniform() && (m.group >= m.n_in || m.group % kActivationGroup == 0);
}

template <class Body>
void for_panels(const Runtime& runtime, const PackedRows& rows, const Body& body) {
  std::vector<PackedRows::Panel> panels;
  for (int64_t r = 0; r < rows.rows(); r += panels.back().count) panels.push_back(rows.panel_of(r));
  runtime.pool.parallel_for(static_cast<int64_t>(panels.size()), 1,
                            [&](int64_t begin, int64_t end) {
                              for (int64_t i = begin; i < end; ++i)
                                body(panels[static_cast<size_t>(i)]);
                            });
}

/// The share of the scale's rounding to fp16 in one group's weights.
void add_scale_loss(const QuantizedMatrix& m, int64_t row, int64_t group, float held, Loss& loss) {
  const auto at = static_cast<size_t>(row * m.n_groups() + group);
  const double zero = m.zeros.empty() ? 0 : static_cast<double>(m.zeros[at]);
  const double scale = static_cast<double>(m.scales[at]);
  const double off = static_cast<double>(held) - scale;
  const int64_t end = std::min((group + 1) * m.group, m.n_in);
  for (int64_t i = group * m.group; i < end; ++i) {
    const double level = m.codes[static_cast<size_t>(row * m.n_in + i)] - zero;
    loss.error += off * off * level * level;
    loss.energy += scale * scale * level * level;
  }
}

/// Codes as they are; zeros are what the layout's center is off by.
QuantizedImport keep_codes(const Runtime& runtime, const QuantizedMatrix& m) {
  const bool by_row = m.group >= m.n_in;
  const PackedShape shape =
      packed_shape(m.bits, m.n_in, by_row ? PackedScale::kRow : PackedScale::kGroup);
  PackedRows rows(shape, m.n_out);
  const int64_t n_sums = by_row ? 1 : shape.n_groups, groups = m.n_groups();
  std::vector<float> zeros(static_cast<size_t>(m.n_out * n_sums));
  std::vector<uint16_t> scales(static_cast<size_t>(m.n_out * n_sums));
  if (by_row) rows.row_scale = m.scales;
  Loss loss;
  for (int64_t o = 0; o < m.n_out; ++o) {
    for (int64_t g = 0; g < n_sums; ++g) {
      const int64_t of = by_row ? 0 : g * kActivationGroup / m.group;
      const auto from = static_cast<size_t>(o * groups + of),
                 to = static_cast<size_t>(o * n_sums + g);
      float scale = m.scales[from];
      if (!by_row) {
        scales[to] = float_to_f16(scale);
        scale = f16_to_float(scales[to]);
        if (g * kActivationGroup % m.group == 0) add_scale_loss(m, o, of, scale, loss);
      }
      zeros[to] = scale * (shape.center - (m.zeros.empty() ? 0.0F : m.zeros[from]));
    }
  }
  for_panels(runtime, rows, [&](const PackedRows::Panel& panel) {
    rows.set_panel(panel, m.codes.data() + panel.first * m.n_in,
                   scales.data() + panel.first * n_sums);
  });
  const auto storage = std::make_shared<ProjectionStorage>(std::move(rows));
  const bool centered = std::ranges::all_of(zeros, [](float zero) { return zero == 0; });
  if (!centered) storage->zeros = std::move(zeros);
  storage->order = m.order;
  const int64_t row_bytes =
      (m.n_in * m.bits + 7) / 8 + (by_row ? 4 : 2 * n_sums) + (centered ? 0 : 4 * n_sums);
  return {.tensor = {storage, 0, m.dtype, {m.n_out, m.n_in}},
          .bytes = m.n_out * row_bytes + 4 * static_cast<int64_t>(m.order.size()),
          .relative_error = loss.relative()};
}

/// 8-bit codes of the values, a scale for each group of inputs with the largest at its end.
QuantizedImport nearest_codes(const Runtime& runtime, const QuantizedMatrix& m) {
  PackedRows rows(packed_shape(8, m.n_in, PackedScale::kGroup), m.n_out);
  const int64_t n_groups = rows.shape().n_groups;
  std::vector<Loss> losses(static_cast<size_t>(m.n_out));
  for_panels(runtime, rows, [&](const PackedRows::Panel& panel) {
    std::vector<float> row(static_cast<size_t>(m.n_in));
    std::vector<uint8_t> codes(static_cast<size_t>(panel.count * m.n_in));
    std::vector<uint16_t> scales(static_cast<size_t>(panel.count * n_groups));
    for (int64_t r = 0; r < panel.count; ++r) {
      m.decode_row(panel.first + r, row);
      Loss& loss = losses[static_cast<size_t>(panel.first + r)];
      for (int64_t g = 0; g < n_groups; ++g) {
        const auto first = static_cast<size_t>(g * kActivationGroup);
        const auto group =
            std::span(row).subspan(first, std::min<size_t>(kActivationGroup, row.size() - first));
        uint16_t& bits = scales[static_cast<size_t>(r * n_groups + g)];
        bits = float_to_f16(largest_of(group) / 127.5F);
        const float scale = f16_to_float(bits), inverse = inverse_of(scale);
        for (size_t i = 0; i < group.size(); ++i) {
          const uint8_t code = code_of(group[i], inverse, 8);
          codes[static_cast<size_t>(r * m.n_in) + first + i] = code;
          const double value = static_cast<double>(group[i]);
          const double off =
              value - static_cast<double>(scale * (static_cast<float>(code) - 127.5F));
          loss.error += off * off;
          loss.energy += value * value;
        }
      }
    }
    rows.set_panel(panel, codes.data(), scales.data());
  });
  Loss total;
  for (const Loss& loss : losses) {
    total.error += loss.error;
    total.energy += loss.energy;
  }
  const int64_t bytes = m.n_out * (m.n_in + 2 * n_groups);
  return {.tensor = {std::make_shared<ProjectionStorage>(std::move(rows)),
                     0,
                     m.dtype,
                     {m.n_out, m.n_in}},
          .bytes = bytes,
          .relative_error = total.relative()};
}

}  // namespace

QuantizedImport make_quantized(const Runtime& runtime, const QuantizedMatrix& matrix) {
  return has_layout(matrix) ? keep_codes(runtime, matrix) : nearest_codes(runtime, matrix);
}

}  // namespace deltacome::cpu
