// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>

#include "backend/cpu/weight.h"
#include "backend/cpu/weight_codes.h"
#include "core/check.h"
#include "quant/kept_codes.h"

namespace deltacome::cpu {
namespace {

/// What a layout loses, over all rows.
struct Loss {
  double error = 0, energy = 0;  // sums of squares
  double relative() const { return energy > 0 ? std::sqrt(error / energy) : 0; }
};

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

/// Codes as they are; zeros are what the layout's center is off by.
QuantizedImport keep_codes(const Runtime& runtime, const QuantizedMatrix& m) {
  const bool by_row = m.group >= m.n_in;
  const PackedShape shape =
      packed_shape(m.bits, m.n_in, by_row ? PackedScale::kRow : PackedScale::kGroup);
  PackedRows rows(shape, m.n_out);
  KeptCodes kept = kept_codes(m, shape.center);
  const int64_t bytes = kept.bytes_of(m);
  if (by_row) rows.row_scale = std::move(kept.row_scales);
  for_panels(runtime, rows, [&](const PackedRows::Panel& panel) {
    rows.set_panel(panel, m.codes.data() + panel.first * m.n_in,
                   by_row ? nullptr : kept.group_scales.data() + panel.first * kept.n_sums);
  });
  const auto storage = std::make_shared<ProjectionStorage>(std::move(rows));
  storage->zeros = std::move(kept.zeros);
  storage->order = m.order;
  return {.tensor = {storage, 0, m.dtype, {m.n_out, m.n_in}},
          .bytes = bytes,
          .relative_error = kept.relative_error};
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
  return keeps_codes(matrix) ? keep_codes(runtime, matrix) : nearest_codes(runtime, matrix);
}

}  // namespace deltacome::cpu
