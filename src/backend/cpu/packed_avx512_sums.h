// SPDX-License-Identifier: Apache-2.0
// Scales and results of products of packed codes, by lanes. Local to the files that include it.
#pragma once

#include "backend/cpu/packed_avx512.h"

namespace deltacome::cpu {
namespace {

using Lanes = float[kPackedLaneRows][16];

/// Sums of the lanes of 16 rows, a lane a row. Each is taken in the same order.
DELTACOME_INLINE __m512 reduce(const Lanes& rows) {
  __m512 quads[4];
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_load_ps(rows[4 * i]), b = _mm512_load_ps(rows[4 * i + 1]);
    const __m512 c = _mm512_load_ps(rows[4 * i + 2]), d = _mm512_load_ps(rows[4 * i + 3]);
    const __m512d ab =
        _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    const __m512d cd =
        _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    quads[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  }
  const auto halve = [](__m512 u, __m512 v) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(u, v, 0x88), _mm512_shuffle_f32x4(u, v, 0xdd));
  };
  return halve(halve(quads[0], quads[1]), halve(quads[2], quads[3]));
}

/// sum + scale times the products of the codes of a group and its activations.
DELTACOME_INLINE __m512 add_group(__m512 sum, __m512i c0, __m512i c1, __m512i x0, __m512i x1,
                                  float scale) {
  __m512i products = _mm512_setzero_si512();
  add_products(products, c0, x0);
  add_products(products, c1, x1);
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), _mm512_set1_ps(scale), sum);
}

/// Of grouped scales: what a group's integers are multiplied with, to out [scale stride], and the
/// sums of what the center of the codes is, in lanes.
DELTACOME_INLINE void scale_groups(const PackedShape& shape, const uint8_t* row,
                                   const QuantizedRow& x, float* out, float* centers) {
  __m512 sum = _mm512_setzero_ps();
  const uint8_t* stored = row + shape.code_bytes;
  for (int64_t g = 0; g < shape.n_groups; g += 16) {
    const __m512 s =
        _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_floats(shape.n_groups - g), stored + 2 * g));
    _mm512_storeu_ps(out + g, _mm512_mul_ps(s, _mm512_loadu_ps(x.scale + g)));
    sum = _mm512_fmadd_ps(s, _mm512_loadu_ps(x.sum + g), sum);
  }
  _mm512_store_ps(centers, sum);
}

/// Lanes of the n <= 16 rows from `row` on become results of T tokens. Other rows' are overwritten.
template <int kBits, int T>
DELTACOME_INLINE void finish(const PackedDotArgs& a, int64_t row, int64_t n, int64_t token,
                             Lanes (&products)[T], Lanes (&centers)[T]) {
  for (int64_t lane = n; lane < kPackedLaneRows; ++lane) {
    for (int t = 0; t < T; ++t) {
      _mm512_store_ps(products[t][lane], _mm512_setzero_ps());
      _mm512_store_ps(centers[t][lane], _mm512_setzero_ps());
    }
  }
  const bool grouped = a.shape->scale == PackedScale::kGroup;
  const __mmask16 valid = first_floats(n);
  const __m512 center = _mm512_set1_ps(-0.5f * static_cast<float>((1 << kBits) - 1));
  __m512 by = _mm512_set1_ps(a.scale);
  if (a.row_scale != nullptr)
    by = _mm512_mul_ps(by, _mm512_maskz_loadu_ps(valid, a.row_scale + row));
  for (int t = 0; t < T; ++t) {
    const __m512 around = grouped ? reduce(centers[t]) : _mm512_set1_ps(a.x[token + t]->total);
    __m512 v = _mm512_mul_ps(by, _mm512_fmadd_ps(center, around, reduce(products[t])));
    float* y = a.y[token + t] + a.y_first + row;
    if (a.add) v = _mm512_add_ps(_mm512_maskz_loadu_ps(valid, y), v);
    _mm512_mask_storeu_ps(y, valid, v);
  }
}

}  // namespace
}  // namespace deltacome::cpu
