// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/weight.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/weight_codes.h"
#include "core/check.h"

namespace deltacome::cpu {
namespace {

/// Codes hold finite values only; throws kInvalidArgument naming the row.
void check_row(std::span<const float> row, const Shape& shape, int64_t r, int bits) {
  const auto bad = std::ranges::find_if(row, [](float v) { return !std::isfinite(v); });
  if (bad == row.end()) return;
  fail(ErrorCode::kInvalidArgument,
       "weights {} of the base: row {}, column {} is {}, expected finite values for codes of {} "
       "bits",
       to_string(shape), r, bad - row.begin(), *bad, bits);
}

/// A row in 8 bits, the largest magnitude at the end of the scale; returns the scale.
float quantize_row(std::span<const float> row, std::span<uint8_t> codes) {
  const float scale = largest_of(row) / 127.5f;
  const float inverse = inverse_of(scale);
  for (size_t i = 0; i < row.size(); ++i) codes[i] = code_of(row[i], inverse, 8);
  return scale;
}

/// A group in 4 bits; returns the fp16 scale, of those tried the one with the least squared error.
uint16_t quantize_group(std::span<const float> group, std::span<uint8_t> codes) {
  // Cutting the largest weights pays for a finer step of the others. Wider ranges than these never
  // won on the projections of the test bed.
  constexpr std::array<float, 7> kShares = {1.0f, 0.93f, 0.87f, 0.81f, 0.75f, 0.69f, 0.63f};
  const float largest = largest_of(group);
  uint16_t best = 0;
  double least = -1;
  std::array<uint8_t, kActivationGroup> tried{};
  for (const float share : kShares) {
    const uint16_t bits = float_to_f16(share * largest / 7.5f);
    const float scale = f16_to_float(bits), inverse = inverse_of(scale);
    float error = 0;
    for (size_t i = 0; i < group.size(); ++i) {
      tried[i] = code_of(group[i], inverse, 4);
      const float d = group[i] - scale * (static_cast<float>(tried[i]) - 7.5f);
      error += d * d;
    }
    if (least >= 0 && static_cast<double>(error) >= least) continue;
    least = static_cast<double>(error);
    best = bits;
    std::copy_n(tried.begin(), group.size(), codes.begin());
  }
  return best;
}

PackedRows quantize(const Runtime& runtime, const HostTensor& host, int bits) {
  const int64_t n_out = host.shape[0], n_in = host.cols();
  PackedRows out(packed_shape(bits, n_in, bits == 8 ? PackedScale::kRow : PackedScale::kGroup),
                 n_out);
  if (bits == 8) out.row_scale.resize(static_cast<size_t>(n_out));
  std::vector<PackedRows::Panel> panels;
  for (int64_t r = 0; r < n_out; r += panels.back().count) panels.push_back(out.panel_of(r));
  const int64_t n_groups = out.shape().n_groups;
  runtime.pool.parallel_for(
      static_cast<int64_t>(panels.size()), 1, [&](int64_t begin, int64_t end) {
        std::vector<float> row(static_cast<size_t>(n_in));
        std::vector<uint8_t> codes(static_cast<size_t>(kPanelRows * n_in));
        std::vector<uint16_t> scales(static_cast<size_t>(kPanelRows * n_groups));
        for (const PackedRows::Panel& panel : std::span(panels).subspan(
                 static_cast<size_t>(begin), static_cast<size_t>(end - begin))) {
          for (int64_t i = 0; i < panel.count; ++i) {
            const int64_t r = panel.first + i;
            convert_to_float(host.bytes.data() + r * n_in * dtype_bytes(host.dtype), host.dtype,
                             row);
            check_row(row, host.shape, r, bits);
            const auto of_row = std::span(codes).subspan(static_cast<size_t>(i * n_in), row.size());
            if (bits == 8) {
              out.row_scale[static_cast<size_t>(r)] = quantize_row(row, of_row);
              continue;
            }
            for (size_t at = 0; at < row.size(); at += kActivationGroup) {
              const size_t n = std::min<size_t>(kActivationGroup, row.size() - at);
              scales[static_cast<size_t>(i * n_groups) + at / kActivationGroup] =
                  quantize_group(std::span(row).subspan(at, n), of_row.subspan(at, n));
            }
          }
          out.set_panel(panel, codes.data(), scales.data());
        }
      });
  return out;
}

HostTensor as_bf16(const HostTensor& host) {
  if (host.dtype == DType::kBf16 && host.owner != nullptr) return host;
  std::vector<std::byte> bytes(static_cast<size_t>(2 * host.size()));
  convert_from_float(host.to_float(), DType::kBf16, bytes.data());
  return HostTensor::of(DType::kBf16, host.shape, std::move(bytes));
}

}  // namespace

Projection projection_of(const Tensor& weight) {
  const auto* own = dynamic_cast<const ProjectionStorage*>(weight.storage.get());
  const int64_t n_out = weight.rows(), n_in = weight.cols();
  if (own == nullptr) return {.stored = {bytes_of(weight), weight.dtype, n_out, n_in}, .zeros = {}};
  if (!own->packed().empty())
    return {.stored = {nullptr, DType::kF32, n_out, n_in},
            .packed = &own->packed(),
            .zeros = own->zeros,
            .order = own->order.empty() ? nullptr : &own->order};
  return {.stored = {own->bf16().bytes.data(), DType::kBf16, n_out, n_in},
          .rounds_inputs = true,
          .zeros = {}};
}

Tensor make_projection(const Runtime& runtime, const HostTensor& host, WeightFormat format) {
  DELTACOME_CHECK(host.shape.size() == 2 && format != WeightFormat::kStored);
  auto storage = format == WeightFormat::kBf16
                     ? std::make_shared<ProjectionStorage>(as_bf16(host))
                     : std::make_shared<ProjectionStorage>(
                           quantize(runtime, host, format == WeightFormat::kInt8 ? 8 : 4));
  return {std::move(storage), 0, host.dtype, host.shape};
}

}  // namespace deltacome::cpu
