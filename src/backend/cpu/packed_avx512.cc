// SPDX-License-Identifier: Apache-2.0
// Products of packed codes for AVX-512 with VNNI and VBMI. A 2-bit weight costs 0.09 instructions
// for one token (per block of 256: 1 load, 7 of unpacking, 8 vpdpbusd, 6 of scaling), of which a
// core of Zen 4 does two a cycle. Nothing of the standard library is used: see kernels_impl.h.
#include <immintrin.h>

#include "backend/cpu/packed_kernels.h"

#define DELTACOME_INLINE [[gnu::always_inline]] inline

namespace deltacome::cpu {
namespace {

constexpr int64_t kGroup = kActivationGroup;
// Rows follow each other in memory, but are read a few at a time: the processor's own prefetching
// starts again with each. Measured on a Zen 4.
constexpr int64_t kAhead = 1024;         // bytes
constexpr int64_t kAheadEntries = 4096;  // of rows of fewer bytes

DELTACOME_INLINE __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}
/// Keeps a vector that several instructions read in a register: GCC would load it again for each.
DELTACOME_INLINE void keep(__m512i& v) {
  asm("" : "+v"(v));
}
DELTACOME_INLINE __mmask64 first_bytes(int64_t n) {
  return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1;
}
DELTACOME_INLINE __mmask16 first_floats(int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

/// Vectors of codes of one row of a block.
template <int kBits>
struct Block {
  static constexpr int kVectors = kBits == 3 ? 3 : kBits == 8 ? 2 : 1;
  static constexpr int kGroups = static_cast<int>(packed_block_cols(kBits) / kGroup);
  __m512i v[kVectors];

  DELTACOME_INLINE void read(const uint8_t* p) {
    for (int i = 0; i < kVectors; ++i) {
      _mm_prefetch(p + 64 * i + kAhead, _MM_HINT_T0);
      v[i] = load(p + 64 * i);
    }
  }
  /// Columns [64 c, 64 c + 64) as bytes.
  template <int c>
  DELTACOME_INLINE __m512i chunk() const {
    if constexpr (kBits == 8) return v[c];
    if constexpr (kBits == 3) {
      const __m512i low =
          _mm512_and_si512(_mm512_srli_epi16(v[c / 4], 2 * (c % 4)), _mm512_set1_epi8(3));
      const __m512i high = c < 2 ? _mm512_slli_epi16(v[2], c < 2 ? 2 - c : 0)
                                 : _mm512_srli_epi16(v[2], c < 2 ? 0 : c - 2);
      return _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8(4), 0xf8);  // low | (high & 4)
    }
    const __m512i shifted = c == 0 ? v[0] : _mm512_srli_epi16(v[0], kBits * c % 16);
    return _mm512_and_si512(shifted, _mm512_set1_epi8((1 << kBits % 8) - 1));
  }
};

template <int R, int T>
struct Sums {
  __m512 f[R][T];
};

template <int kBits, int R, int T, int g>
DELTACOME_INLINE void block_group(const Block<kBits> (&block)[R], const QuantizedRow* const* x,
                                  int64_t at, const float* const* scales, int64_t scale_stride,
                                  int64_t group, Sums<R, T>& sums) {
  __m512i codes[R][2];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    codes[r][0] = block[r].template chunk<2 * g>();
    codes[r][1] = block[r].template chunk<2 * g + 1>();
  }
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    const int8_t* high = x[t]->high + at + g * kGroup;
    const int8_t* low = x[t]->low + at + g * kGroup;
    __m512i h0 = load(high), h1 = load(high + 64), l0 = load(low), l1 = load(low + 64);
    if constexpr (R > 1) {
      keep(h0);
      keep(h1);
      keep(l0);
      keep(l1);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      __m512i acc = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes[r][0], h0);
      acc = _mm512_slli_epi32(_mm512_dpbusd_epi32(acc, codes[r][1], h1), 8);
      acc = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(acc, codes[r][0], l0), codes[r][1], l1);
      const float* scale = scales[t] + r * scale_stride + group + g;
      sums.f[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_set1_ps(*scale), sums.f[r][t]);
    }
  }
}

/// Sum over a run of n <= 128 columns of kBits (not 3).
template <int kBits>
DELTACOME_INLINE __m512i run_sum(const uint8_t* p, int64_t n, const int8_t* high,
                                 const int8_t* low) {
  const int64_t stride = packed_run_bytes(kBits, n);
  __m512i hi = _mm512_setzero_si512(), lo = hi;
  for (int64_t part = 0; part < stride; part += 64) {  // more than one of 8 bits only
    const __mmask64 mask = first_bytes(stride - part);
    const __m512i v = _mm512_maskz_loadu_epi8(mask, p + part);
    for (int i = 0; i < 8 / kBits; ++i) {
      const __m512i codes = _mm512_and_si512(_mm512_srl_epi16(v, _mm_cvtsi32_si128(kBits * i)),
                                             _mm512_set1_epi8(static_cast<char>((1 << kBits) - 1)));
      hi = _mm512_dpbusd_epi32(hi, codes, load(high + stride * i + part));
      lo = _mm512_dpbusd_epi32(lo, codes, load(low + stride * i + part));
    }
  }
  return _mm512_add_epi32(_mm512_slli_epi32(hi, 8), lo);
}

template <int kBits, int R, int T>
DELTACOME_INLINE void add_tail(const PackedShape& shape, const uint8_t* const* rows,
                               const QuantizedRow* const* x, const float* const* scales,
                               int64_t scale_stride, Sums<R, T>& sums) {
  constexpr int64_t kBlock = packed_block_cols(kBits);
  int64_t offset = shape.n_blocks * packed_run_bytes(kBits, kBlock);
  for (int64_t at = shape.n_blocks * kBlock; at < shape.cols; at += kGroup) {
    const int64_t n = shape.cols - at < kGroup ? shape.cols - at : kGroup;
    for (int r = 0; r < R; ++r) {
      for (int t = 0; t < T; ++t) {
        const int8_t* high = x[t]->high + at;
        const int8_t* low = x[t]->low + at;
        __m512i acc;
        if constexpr (kBits == 3) {
          const uint8_t* top = rows[r] + offset + packed_run_bytes(2, n);
          acc = _mm512_add_epi32(run_sum<2>(rows[r] + offset, n, high, low),
                                 _mm512_slli_epi32(run_sum<1>(top, n, high, low), 2));
        } else {
          acc = run_sum<kBits>(rows[r] + offset, n, high, low);
        }
        const float* scale = scales[t] + r * scale_stride + at / kGroup;
        sums.f[r][t] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_set1_ps(*scale), sums.f[r][t]);
      }
    }
    offset += packed_run_bytes(kBits, n);
  }
}

/// R rows against T tokens.
template <int kBits, int R, int T>
void dot_tile(const PackedDotArgs& a, int64_t row, int64_t token) {
  constexpr float kCenter = 0.5f * static_cast<float>((1 << kBits) - 1);
  const PackedShape& shape = *a.shape;
  const uint8_t* rows[R];
  const QuantizedRow* const* x = a.x + token;
  const float*
      scales[T];       // of rows scale_stride apart: what a group's integers are multiplied with
  float center[R][T];  // sums of what the center of the codes is multiplied with
  int64_t scale_stride = 0;
  for (int r = 0; r < R; ++r) rows[r] = a.rows + (row + r) * shape.row_bytes;
  if (shape.scale == PackedScale::kGroup) {
    scale_stride = (shape.n_groups + 15) / 16 * 16;
    for (int r = 0; r < R; ++r) {
      __m512 sum[T];
      for (int t = 0; t < T; ++t) sum[t] = _mm512_setzero_ps();
      const uint8_t* stored = rows[r] + shape.code_bytes;
      for (int64_t g = 0; g < shape.n_groups; g += 16) {
        const __m512 s = _mm512_cvtph_ps(
            _mm256_maskz_loadu_epi16(first_floats(shape.n_groups - g), stored + 2 * g));
        for (int t = 0; t < T; ++t) {
          float* out = a.scratch + (t * R + r) * scale_stride + g;
          _mm512_storeu_ps(out, _mm512_mul_ps(s, _mm512_loadu_ps(x[t]->scale + g)));
          sum[t] = _mm512_fmadd_ps(s, _mm512_loadu_ps(x[t]->sum + g), sum[t]);
        }
      }
      for (int t = 0; t < T; ++t) center[r][t] = _mm512_reduce_add_ps(sum[t]);
    }
    for (int t = 0; t < T; ++t) scales[t] = a.scratch + t * R * scale_stride;
  } else {
    for (int t = 0; t < T; ++t) {
      scales[t] = x[t]->scale;
      for (int r = 0; r < R; ++r) center[r][t] = x[t]->total;
    }
  }
  Sums<R, T> sums;
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) sums.f[r][t] = _mm512_setzero_ps();
  }
  constexpr int64_t kCols = packed_block_cols(kBits), kBytes = packed_run_bytes(kBits, kCols);
  for (int64_t b = 0; b < shape.n_blocks; ++b) {
    using B = Block<kBits>;
    B block[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) block[r].read(rows[r] + b * kBytes);
    const int64_t at = b * kCols, group = b * B::kGroups;
    block_group<kBits, R, T, 0>(block, x, at, scales, scale_stride, group, sums);
    if constexpr (B::kGroups > 1)
      block_group<kBits, R, T, 1>(block, x, at, scales, scale_stride, group, sums);
    if constexpr (B::kGroups > 2) {
      block_group<kBits, R, T, 2>(block, x, at, scales, scale_stride, group, sums);
      block_group<kBits, R, T, 3>(block, x, at, scales, scale_stride, group, sums);
    }
  }
  add_tail<kBits, R, T>(shape, rows, x, scales, scale_stride, sums);
  for (int r = 0; r < R; ++r) {
    const float by = a.row_scale == nullptr ? a.scale : a.row_scale[row + r] * a.scale;
    for (int t = 0; t < T; ++t) {
      const float v =
          by * __builtin_fmaf(-kCenter, center[r][t], _mm512_reduce_add_ps(sums.f[r][t]));
      float* y = a.y[token + t] + a.y_first + row + r;
      *y = a.add ? *y + v : v;
    }
  }
}

template <int kBits, int T>
void dot_rows(const PackedDotArgs& a, int64_t token) {
  int64_t row = 0;
  if constexpr (T > 1) {  // one token waits for memory: a single stream of bytes is read fastest
    for (; row + kPackedTileRows <= a.n_rows; row += kPackedTileRows)
      dot_tile<kBits, kPackedTileRows, T>(a, row, token);
  }
  for (; row < a.n_rows; ++row) dot_tile<kBits, 1, T>(a, row, token);
}

template <int kBits>
void dot_bits(const PackedDotArgs& a) {
  int64_t token = 0;
  for (; token + 4 <= a.n_tokens; token += 4) dot_rows<kBits, 4>(a, token);
  switch (a.n_tokens - token) {
    case 1:
      return dot_rows<kBits, 1>(a, token);
    case 2:
      return dot_rows<kBits, 2>(a, token);
    case 3:
      return dot_rows<kBits, 3>(a, token);
    default:
      return;
  }
}

void dot(const PackedDotArgs& a) {
  switch (a.shape->bits) {
    case 1:
      return dot_bits<1>(a);
    case 2:
      return dot_bits<2>(a);
    case 3:
      return dot_bits<3>(a);
    case 4:
      return dot_bits<4>(a);
    default:
      return dot_bits<8>(a);
  }
}

/// The scale of values of which the largest magnitude has these bits; NaN if it is not finite.
DELTACOME_INLINE float scale_of(uint32_t bits) {
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  if (bits >= 0x7f800000u) return __builtin_nanf("");
  return largest < 1e-30f ? 0.0f : largest / kActivationLevels;
}

struct Bytes {
  __m128i high, low;
};
/// q = 256 * high + low of 16 values; adds them to `sum`.
DELTACOME_INLINE Bytes quantize16(__m512 x, __m512 inverse, __m512i& sum) {
  const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
  sum = _mm512_add_epi32(sum, q);
  const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
  const __m512i low = _mm512_sub_epi32(q, _mm512_slli_epi32(high, 8));
  return {_mm512_cvtepi32_epi8(high), _mm512_cvtepi32_epi8(low)};
}
DELTACOME_INLINE __m512i magnitude(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

void quantize(const QuantizeArgs& a) {
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
      const Bytes bytes = quantize16(x[i], inverse, sum);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(a.high + g * kGroup + 16 * i), bytes.high);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(a.low + g * kGroup + 16 * i), bytes.low);
    }
    a.scale[g] = scale;
    a.sum[g] = scale * static_cast<float>(_mm512_reduce_add_epi32(sum));
  }
}

/// By position inside an entry: element p of code j is at [j / 64][p][j % 64].
void quantize_entries(const EntryQuantizeArgs& a) {
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
        const Bytes bytes = quantize16(v, inverse, sum);
        const int64_t to = g * block + p * kEntryBlock + j;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(a.high + to), bytes.high);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(a.low + to), bytes.low);
      }
    }
    a.scale[g] = scale;
    a.sum[g] = scale * static_cast<float>(_mm512_reduce_add_epi32(sum));
  }
}

/// R rows against T tokens. Looks entries up by element: 256 bytes in four registers, chosen by two
/// permutations and the top bit of the code.
template <int R, int T>
void entry_tile(const EntryDotArgs& a, int64_t row, int64_t token) {
  const QuantizedRow* const* x = a.x + token;
  __m512 sums[R][T];
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) sums[r][t] = _mm512_setzero_ps();
  }
  const int64_t block = int64_t{kEntryBlock} * a.dim;
  for (int64_t b = 0; b * kEntryBlock < a.n_codes; ++b) {
    __m512i codes[R], high[R][T], low[R][T];
    __mmask64 upper[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const uint8_t* at = a.codes + (row + r) * a.n_codes + b * kEntryBlock;
      _mm_prefetch(at + kAheadEntries, _MM_HINT_T0);
      codes[r] = _mm512_maskz_loadu_epi8(first_bytes(a.n_codes - b * kEntryBlock), at);
      upper[r] = _mm512_movepi8_mask(codes[r]);
      for (int t = 0; t < T; ++t) high[r][t] = low[r][t] = _mm512_setzero_si512();
    }
    for (int p = 0; p < a.dim; ++p) {
      const uint8_t* plane = a.planes + 256 * p;
      __m512i p0 = load(plane), p1 = load(plane + 64);
      __m512i p2 = load(plane + 128), p3 = load(plane + 192);
      __m512i high_x[T], low_x[T];
      keep(p0);
      keep(p1);
      keep(p2);
      keep(p3);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        high_x[t] = load(x[t]->high + b * block + p * kEntryBlock);
        low_x[t] = load(x[t]->low + b * block + p * kEntryBlock);
        if (R * T <= 4) keep(high_x[t]);
        if (R * T <= 4) keep(low_x[t]);
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m512i values =
            _mm512_mask_blend_epi8(upper[r], _mm512_permutex2var_epi8(p0, codes[r], p1),
                                   _mm512_permutex2var_epi8(p2, codes[r], p3));
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) {
          high[r][t] = _mm512_dpbusd_epi32(high[r][t], values, high_x[t]);
          low[r][t] = _mm512_dpbusd_epi32(low[r][t], values, low_x[t]);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const __m512i acc = _mm512_add_epi32(_mm512_slli_epi32(high[r][t], 8), low[r][t]);
        sums[r][t] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_set1_ps(x[t]->scale[b]), sums[r][t]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    const float by = a.row_scale[row + r] * 0.03125f;
    for (int t = 0; t < T; ++t) {
      float* y = a.y[token + t] + a.y_first + row + r;
      *y += by * __builtin_fmaf(-128.0f, x[t]->total, _mm512_reduce_add_ps(sums[r][t]));
    }
  }
}

template <int R, int T>
void entry_rows(const EntryDotArgs& a, int64_t token) {
  int64_t row = 0;
  for (; row + R <= a.n_rows; row += R) entry_tile<R, T>(a, row, token);
  for (; row < a.n_rows; ++row) entry_tile<1, T>(a, row, token);
}

void entry_dot(const EntryDotArgs& a) {
  int64_t token = 0;
  for (; token + 4 <= a.n_tokens; token += 4) entry_rows<2, 4>(a, token);
  for (; token + 2 <= a.n_tokens; token += 2) entry_rows<4, 2>(a, token);
  if (token < a.n_tokens) entry_rows<3, 1>(a, token);
}

}  // namespace

extern const PackedKernels kVnniKernels;
const PackedKernels kVnniKernels = {
    .quantize = quantize, .quantize_entries = quantize_entries, .dot = dot, .entry_dot = entry_dot};

}  // namespace deltacome::cpu
