// SPDX-License-Identifier: Apache-2.0
// Activations as bytes, for AVX-512.
#include "backend/cpu/packed_avx512.h"

namespace deltacome::cpu {
namespace {

/// The scale of values of which the largest magnitude has these bits; NaN if it is not finite.
DELTACOME_INLINE float scale_of(uint32_t bits) {
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  if (bits >= 0x7f800000u) return __builtin_nanf("");
  return largest < 1e-30f ? 0.0f : largest / kActivationLevels;
}

/// 16 values; adds them to `sum`.
DELTACOME_INLINE __m128i quantize16(__m512 x, __m512 inverse, __m512i& sum) {
  const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
  sum = _mm512_add_epi32(sum, q);
  return _mm512_cvtepi32_epi8(q);
}
/// Of inputs that are not finite, q is not their multiple: the scale says it all.
DELTACOME_INLINE float total_of(__m512i sum, float scale) {
  return scale - scale == 0 ? static_cast<float>(_mm512_reduce_add_epi32(sum)) : 0;
}
DELTACOME_INLINE __m512i magnitude(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

}  // namespace

void quantize_avx512(const QuantizeArgs& a) {
  for (int64_t g = 0; g * kGroup < a.n; ++g) {
    __m512 x[8];
    __m512i most = _mm512_setzero_si512(), sum = most;
    for (int i = 0; i < 8; ++i) {
      const int64_t at = g * kGroup + 16 * i;
      const __mmask16 mask = first_floats(a.n - at < 0 ? 0 : a.n - at);
      x[i] = _mm512_maskz_loadu_ps(mask, a.x + at);
      if (a.gains != nullptr) x[i] = _mm512_mul_ps(x[i], _mm512_maskz_loadu_ps(mask, a.gains + at));
      most = _mm512_max_epu32(most, magnitude(x[i]));
    }
    const float scale = scale_of(_mm512_reduce_max_epu32(most));
    const __m512 inverse = _mm512_set1_ps(scale > 0 ? 1 / scale : 0.0f);
    for (int i = 0; i < 8; ++i) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(a.bytes + g * kGroup + 16 * i),
                       quantize16(x[i], inverse, sum));
    }
    a.scale[g] = scale;
    a.sum[g] = scale * total_of(sum, scale);
  }
}

/// By position inside an entry: element p of code j is at [j / 64][p][j % 64].
void quantize_entries_avx512(const EntryQuantizeArgs& a) {
  const int64_t block = int64_t{kEntryBlock} * a.dim;
  for (int64_t g = 0; g * block < a.n; ++g) {
    const float* x = a.x + g * block;
    const int64_t n = a.n - g * block < block ? a.n - g * block : block;
    __m512i most = _mm512_setzero_si512(), sum = most;
    for (int64_t i = 0; i < n; i += 16)
      most = _mm512_max_epu32(most, magnitude(_mm512_maskz_loadu_ps(first_floats(n - i), x + i)));
    const float scale = scale_of(_mm512_reduce_max_epu32(most));
    const __m512 inverse = _mm512_set1_ps(scale > 0 ? 1 / scale : 0.0f);
    const __m512i lanes =
        _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                           _mm512_set1_epi32(a.dim));
    for (int p = 0; p < a.dim; ++p) {
      for (int j = 0; j < kEntryBlock; j += 16) {
        const __m512i at = _mm512_add_epi32(lanes, _mm512_set1_epi32(j * a.dim + p));
        const __mmask16 mask = _mm512_cmplt_epi32_mask(at, _mm512_set1_epi32(static_cast<int>(n)));
        const __m512 v = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, at, x, 4);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(a.bytes + g * block + p * kEntryBlock + j),
                         quantize16(v, inverse, sum));
      }
    }
    a.scale[g] = scale;
    a.sum[g] = scale * total_of(sum, scale);
  }
}

}  // namespace deltacome::cpu
