// SPDX-License-Identifier: Apache-2.0
// What linear() should give, in double, and how far float may be from it.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/test_support.h"
#include "backend/cpu/variant.h"

namespace deltacome::cpu::testing {

/// One matrix of a variant as the oracle sees it.
struct Entry {
  MatrixFormat format;
  HostTensor blob;
};

/// y[o] of one row and the sum of the magnitudes of all products in it, in double; `slack` bounds
/// what products of codes with quantized activations may add to the rounding of those.
struct Oracle {
  std::vector<double> y, magnitude, slack;
  std::vector<bool> defined;

  explicit Oracle(int64_t n) : y(n), magnitude(n), slack(n), defined(n, false) {}
  double bound(size_t o, int64_t terms) const { return gamma_k(terms) * magnitude[o] + slack[o]; }
  void product(const std::vector<float>& w, int64_t first_out, const float* x, int64_t n_in) {
    for (size_t o = 0; o < w.size() / static_cast<size_t>(n_in); ++o) {
      const size_t at = o + static_cast<size_t>(first_out);
      defined[at] = true;
      for (size_t i = 0; i < static_cast<size_t>(n_in); ++i)
        add(at,
            static_cast<double>(w[o * static_cast<size_t>(n_in) + i]) * static_cast<double>(x[i]));
    }
  }
  void add(size_t o, double value) {
    y[o] += value;
    magnitude[o] += std::abs(value);
  }
};

/// Range of the codes of random_array(): scales stay below 0.1 (but for their rounding to fp16).
inline double range_of(const ArrayFormat& format) {
  return format.bits == 16 ? 0 : 0.1001 * ((1 << format.bits) - 1);
}

inline void add_dense(Oracle& oracle, const MatrixFormat& format, const DecodedDelta& d,
                      const float* x) {
  const auto n_in = static_cast<size_t>(format.n_in());
  const Activations input = can_pack(format) ? quantized({x, n_in}) : Activations::exact({x, n_in});
  for (size_t o = 0; o < static_cast<size_t>(format.base_rows); ++o) {
    for (size_t i = 0; i < n_in; ++i)
      oracle.add(o, static_cast<double>(d.v[o * n_in + i]) * input.values[i]);
    oracle.defined[o] = true;
    oracle.slack[o] += code_slack(input, range_of(format.dense));
  }
}

/// Components [first, first + rank) of a tier times s, with what they may be off.
inline Activations components_of(const DecodedDelta& d, const TierFormat& tier, size_t first,
                                 const Activations& input) {
  Activations z;
  const size_t n_in = input.values.size();
  for (size_t c = first; c < first + static_cast<size_t>(tier.rank); ++c) {
    double sum = 0, size = 0;
    for (size_t i = 0; i < n_in; ++i) {
      const double p = static_cast<double>(d.v[c * n_in + i]) * input.values[i];
      sum += p;
      size += std::abs(p);
    }
    const auto s = static_cast<double>(d.s[c]);
    z.values.push_back(s * sum);
    z.errors.push_back(std::abs(s) * (gamma_k(static_cast<int64_t>(n_in) + 8) * size +
                                      code_slack(input, range_of(tier.v))));
  }
  return z;
}

/// y += U z of a tier for outputs [begin, end), which see `z` as `seen`, in units of `unit` a
/// component.
inline void add_components(Oracle& oracle, const DecodedDelta& d, size_t first, size_t begin,
                           size_t end, const Activations& seen, const std::vector<double>& unit,
                           double range, const std::vector<float>& row_gain) {
  const size_t rank = d.s.size();
  for (size_t o = begin; o < end; ++o) {
    oracle.defined[o] = true;
    for (size_t c = 0; c < seen.values.size(); ++c)
      oracle.add(o, static_cast<double>(d.u[o * rank + first + c]) * seen.values[c] / unit[c]);
    const double gain = row_gain.empty() ? 1 : static_cast<double>(row_gain[o]);
    oracle.slack[o] += gain * code_slack(seen, range);
  }
}

inline void add_low_rank(Oracle& oracle, const Entry& e, const DecodedDelta& d, const float* x) {
  const MatrixFormat& format = e.format;
  const auto n_in = static_cast<size_t>(format.n_in());
  const auto n_out = static_cast<size_t>(format.base_rows);
  const BlobLayout layout = layout_of(format);
  const std::vector<float> col_gain = decode_gains(e.blob.bytes, layout.col_gain);
  const std::vector<float> row_gain = decode_gains(e.blob.bytes, layout.row_gain);
  const bool packed = can_pack(format);
  // d.v has the gains; the backend multiplies its input by them before it is quantized.
  Activations input = Activations::exact({x, n_in});
  if (packed && !col_gain.empty()) {
    for (size_t i = 0; i < n_in; ++i) input.values[i] *= static_cast<double>(col_gain[i]);
  }
  DecodedDelta delta = d;
  if (packed) {
    input = quantized(input);
    for (size_t k = 0; !col_gain.empty() && k < delta.v.size(); ++k)
      delta.v[k] /= col_gain[k % n_in];
  }
  size_t first = 0;
  for (size_t t = 0; t < format.tiers.size(); ++t) {
    const TierFormat& tier = format.tiers[t];
    const auto n = static_cast<size_t>(tier.rank);
    const Activations z = components_of(delta, tier, first, input);
    if (!packed) {
      const std::vector<double> ones(n, 1);
      add_components(oracle, delta, first, 0, n_out, z, ones, range_of(tier.u), row_gain);
    } else if (tier.u.scale_rows == 1 && tier.u.scale_cols > 0) {  // scales of components
      const auto block = static_cast<size_t>(tier.u.scale_cols);
      const size_t n_blocks = (n_out + block - 1) / block;
      std::vector<float> scales(n * n_blocks);
      convert_to_float(e.blob.bytes.data() + layout.tiers[t].u.scales.offset, DType::kF16, scales);
      for (size_t b = 0; b < n_blocks; ++b) {
        std::vector<double> unit;
        Activations scaled = z;
        for (size_t c = 0; c < n; ++c) {
          unit.push_back(static_cast<double>(scales[c * n_blocks + b]));
          scaled.values[c] *= unit[c];
          scaled.errors[c] *= unit[c];
        }
        const double range = (1 << tier.u.bits) - 1;
        add_components(oracle, delta, first, b * block, std::min(n_out, (b + 1) * block),
                       quantized(scaled), unit, range, row_gain);
      }
    } else {
      const std::vector<double> ones(n, 1);
      add_components(oracle, delta, first, 0, n_out, quantized(z), ones, range_of(tier.u),
                     row_gain);
    }
    first += n;
  }
}

/// The rotated input is quantized; the weights are those before the rotation is undone.
inline void add_vector(Oracle& oracle, const Entry& e, const float* x) {
  const auto n_in = static_cast<size_t>(e.format.n_in());
  const std::vector<float> w = decode_rotated(e.format, e.blob.bytes);
  const std::vector<float> gains = decode_gains(e.blob.bytes, layout_of(e.format).col_gain);
  std::vector<float> rotated(x, x + n_in);
  for (size_t i = 0; i < gains.size(); ++i) rotated[i] *= gains[i];
  rotate(std::span(rotated), rotation_signs(e.format.vector.seed, e.format.n_in()),
         e.format.vector.block);
  const Activations input = quantized_entries(rotated, e.format.vector.dim);
  std::vector<float> row_scale(w.size() / n_in);
  convert_to_float(e.blob.bytes.data() + layout_of(e.format).row_scale.offset, DType::kF16,
                   row_scale);
  for (size_t o = 0; o < row_scale.size(); ++o) {
    for (size_t i = 0; i < n_in; ++i)
      oracle.add(o, static_cast<double>(w[o * n_in + i]) * input.values[i]);
    oracle.slack[o] += code_slack(input, 255.0 / 32 * std::abs(static_cast<double>(row_scale[o])));
  }
}

inline std::vector<float> tail_rows(const Entry& e) {
  const Part part = layout_of(e.format).added;
  std::vector<float> out(static_cast<size_t>(e.format.added_rows() * e.format.n_in()));
  convert_to_float(e.blob.bytes.data() + part.offset, e.format.raw_dtype, out);
  return out;
}

inline Oracle reference(const HostTensor& w, const Entry* e, const float* x, int64_t width) {
  Oracle oracle(width);
  if (e != nullptr && e->format.codec == Codec::kRaw) {
    oracle.product(
        HostTensor{e->format.raw_dtype,
                   e->format.shape,
                   e->blob.bytes.first(static_cast<size_t>(layout_of(e->format).raw.bytes)),
                   {}}
            .to_float(),
        0, x, w.cols());
    return oracle;
  }
  oracle.product(w.to_float(), 0, x, w.cols());
  if (e == nullptr) return oracle;
  const DecodedDelta d = decode_delta(e->format, e->blob.bytes);
  if (e->format.codec == Codec::kVector) add_vector(oracle, *e, x);
  if (e->format.codec == Codec::kDense) add_dense(oracle, e->format, d, x);
  if (e->format.codec == Codec::kLowRank) add_low_rank(oracle, *e, d, x);
  oracle.product(tail_rows(*e), w.rows(), x, w.cols());
  return oracle;
}

}  // namespace deltacome::cpu::testing
