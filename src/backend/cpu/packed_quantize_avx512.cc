// SPDX-License-Identifier: Apache-2.0
// Activations as bytes, for AVX-512.
#include "backend/cpu/packed_avx512.h"

namespace deltacome::cpu {
namespace {

/// The scale of values of which the largest magnitude has these bits; NaN if it is not finite.
DELTACOME_INLINE float scale_of(uint32_t bits, float levels) {
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  if (bits >= 0x7f800000u) return __builtin_nanf("");
  return largest < 1e-30f ? 0.0f : largest / levels;
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
    const float scale = scale_of(_mm512_reduce_max_epu32(most), kActivationLevels);
    const __m512 inverse = _mm512_set1_ps(scale > 0 ? 1 / scale : 0.0f);
    for (int i = 0; i < 8; ++i) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(a.bytes + g * kGroup + 16 * i),
                       quantize16(x[i], inverse, sum));
    }
    a.scale[g] = scale;
    a.sum[g] = scale * total_of(sum, scale);
  }
}

namespace {

/// Sums of the elements x of a code, less 128 their sum, with the entries of a book. A table of 16
/// bits: their low bytes, then their high bytes plus 128.
DELTACOME_INLINE void sum_entries(const EntryBook& book, const int8_t* x, int64_t n, uint8_t* out) {
  using Int32 [[gnu::may_alias]] = int32_t;
  int32_t total = 0;
  for (int64_t i = 0; i < n; ++i) total += x[i];
  const __m512i start = _mm512_set1_epi32(-128 * total);
  const __m512i low = _mm512_set1_epi16(0xff), middle = _mm512_set1_epi8(-128);
  for (int64_t part = 0; part < kEntryBookSize; part += 64) {
    __m512i sums[4];
    for (int k = 0; k < 4; ++k) {
      sums[k] = start;
      for (int64_t q = 0; q < n / 4; ++q) {
        const uint8_t* entries = book.quads + 4 * (q * kEntryBookSize + part + 16 * k);
        add_products(sums[k], _mm512_load_si512(entries),
                     _mm512_set1_epi32(*reinterpret_cast<const Int32*>(x + 4 * q)));
      }
    }
    const __m512i ab = _mm512_packs_epi32(sums[0], sums[1]);
    const __m512i cd = _mm512_packs_epi32(sums[2], sums[3]);
    _mm512_storeu_si512(out + part,
                        _mm512_packus_epi16(_mm512_and_si512(ab, low), _mm512_and_si512(cd, low)));
    const __m512i high = _mm512_packs_epi16(_mm512_srai_epi16(ab, 8), _mm512_srai_epi16(cd, 8));
    _mm512_storeu_si512(out + kEntryBookSize + part, _mm512_xor_si512(high, middle));
  }
}

}  // namespace

void quantize_entries_avx512(const EntryQuantizeArgs& a) {
  const int64_t dim = a.book->dim, padded = entry_bytes(a.book->dim), group = kEntryGroup * dim;
  alignas(64) int8_t elements[kEntryGroup * 16], spread[kEntryGroup * 16];
  for (int64_t g = 0; g * group < a.n; ++g) {
    const float* x = a.x + g * group;
    const int64_t n = a.n - g * group < group ? a.n - g * group : group;
    __m512i most = _mm512_setzero_si512(), sum = most;
    for (int64_t i = 0; i < n; i += 16)
      most = _mm512_max_epu32(most, magnitude(_mm512_maskz_loadu_ps(first_floats(n - i), x + i)));
    const float scale = scale_of(_mm512_reduce_max_epu32(most), a.book->levels);
    const __m512 inverse = _mm512_set1_ps(scale > 0 ? 1 / scale : 0.0f);
    for (int64_t i = 0; i < group; i += 16) {
      const __m512 v = _mm512_maskz_loadu_ps(first_floats(n - i < 0 ? 0 : n - i), x + i);
      _mm_store_si128(reinterpret_cast<__m128i*>(elements + i), quantize16(v, inverse, sum));
    }
    const int8_t* by_code = elements;
    if (padded != dim) {
      for (int64_t j = 0; j < kEntryGroup; ++j) {
        for (int64_t p = 0; p < padded; ++p)
          spread[j * padded + p] = p < dim ? elements[j * dim + p] : int8_t{0};
      }
      by_code = spread;
    }
    if (a.sums) {
      for (int64_t j = 0; j < kEntryGroup; ++j)
        sum_entries(*a.book, by_code + j * padded, padded,
                    reinterpret_cast<uint8_t*>(a.bytes) + (g * kEntryGroup + j) * kEntrySumBytes);
    } else {
      __builtin_memcpy(a.bytes + g * kEntryGroup * padded, by_code,
                       static_cast<size_t>(kEntryGroup * padded));
    }
    a.scale[g] = scale;
    a.sum[g] = total_of(sum, scale);
  }
}

}  // namespace deltacome::cpu
