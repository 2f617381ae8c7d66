// SPDX-License-Identifier: Apache-2.0
// Products of packed codes for AVX-512 with VNNI and VBMI. A 2-bit weight costs 0.09 instructions
// for one token (per block of 256: 1 load, 7 of unpacking, 8 vpdpbusd, 6 of scaling), of which a
// core of Zen 4 does two a cycle. Nothing of the standard library is used: see kernels_impl.h.
#include "backend/cpu/packed_avx512.h"

#include "backend/cpu/packed_avx512_tail.h"

namespace deltacome::cpu {
namespace {

// Rows follow each other in memory, but are read a few at a time: the processor's own prefetching
// starts again with each. Measured on a Zen 4.
constexpr int64_t kAhead = 1024;  // bytes

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

template <int kBits, int R, int T>
DELTACOME_INLINE void add_tail(const Tail<kBits>& tail, int64_t cols, const uint8_t* const* rows,
                               const QuantizedRow* const* x, const float* const* scales,
                               int64_t scale_stride, Sums<R, T>& sums) {
  int64_t offset = tail.offset;
  for (int64_t at = tail.first; at < cols; at += kGroup) {
    const int64_t n = cols - at < kGroup ? cols - at : kGroup;
    for (int r = 0; r < R; ++r) {
      const bool two = n > 64;
      const __m512i c0 = tail.codes(rows[r] + offset, n, 0);
      const __m512i c1 = two ? tail.codes(rows[r] + offset, n, 1) : _mm512_setzero_si512();
      for (int t = 0; t < T; ++t) {
        const int8_t* high = x[t]->high + at;
        const int8_t* low = x[t]->low + at;
        __m512i acc = _mm512_dpbusd_epi32(_mm512_setzero_si512(), c0, load(high));
        if (two) acc = _mm512_dpbusd_epi32(acc, c1, load(high + 64));
        acc = _mm512_dpbusd_epi32(_mm512_slli_epi32(acc, 8), c0, load(low));
        if (two) acc = _mm512_dpbusd_epi32(acc, c1, load(low + 64));
        const float* scale = scales[t] + r * scale_stride + at / kGroup;
        sums.f[r][t] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_set1_ps(*scale), sums.f[r][t]);
      }
    }
    offset += packed_run_bytes(kBits, n);
  }
}

constexpr int kRowsAtOnce = 16;  // lanes of a vector of results
using Lanes = float[kRowsAtOnce][16];

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

/// R rows against T tokens: sums that are still in lanes, of products and of what the center of
/// the codes is multiplied with (grouped scales only).
template <int kBits, int R, int T>
DELTACOME_INLINE void dot_tile(const PackedDotArgs& a, const Tail<kBits>& tail, int64_t row,
                               int64_t token, Lanes (&products)[T], Lanes (&centers)[T],
                               int64_t lane) {
  const PackedShape& shape = *a.shape;
  const uint8_t* rows[R];
  const QuantizedRow* const* x = a.x + token;
  const float*
      scales[T];  // of rows scale_stride apart: what a group's integers are multiplied with
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
      for (int t = 0; t < T; ++t) _mm512_store_ps(centers[t][lane + r], sum[t]);
    }
    for (int t = 0; t < T; ++t) scales[t] = a.scratch + t * R * scale_stride;
  } else {
    for (int t = 0; t < T; ++t) scales[t] = x[t]->scale;
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
  add_tail<kBits, R, T>(tail, shape.cols, rows, x, scales, scale_stride, sums);
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) _mm512_store_ps(products[t][lane + r], sums.f[r][t]);
  }
}

/// At most 16 rows against T tokens.
template <int kBits, int T>
DELTACOME_INLINE void dot_lanes(const PackedDotArgs& a, const Tail<kBits>& tail, int64_t row,
                                int64_t n, int64_t token) {
  alignas(64) Lanes products[T], centers[T];
  int64_t lane = 0;
  if constexpr (T > 1) {  // one token waits for memory: a single stream of bytes is read fastest
    for (; lane + kPackedTileRows <= n; lane += kPackedTileRows)
      dot_tile<kBits, kPackedTileRows, T>(a, tail, row + lane, token, products, centers, lane);
  }
  for (; lane < n; ++lane)
    dot_tile<kBits, 1, T>(a, tail, row + lane, token, products, centers, lane);
  const __mmask16 valid = first_floats(n);
  const bool grouped = a.shape->scale == PackedScale::kGroup;
  for (; lane < kRowsAtOnce; ++lane) {
    for (int t = 0; t < T; ++t) {
      _mm512_store_ps(products[t][lane], _mm512_setzero_ps());
      _mm512_store_ps(centers[t][lane], _mm512_setzero_ps());
    }
  }
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

template <int kBits, int T>
void dot_rows(const PackedDotArgs& a, const Tail<kBits>& tail, int64_t token) {
  for (int64_t row = 0; row < a.n_rows; row += kRowsAtOnce) {
    const int64_t left = a.n_rows - row;
    dot_lanes<kBits, T>(a, tail, row, left < kRowsAtOnce ? left : kRowsAtOnce, token);
  }
}

template <int kBits>
void dot_bits(const PackedDotArgs& a) {
  const Tail<kBits> tail(*a.shape);
  int64_t token = 0;
  for (; token + 4 <= a.n_tokens; token += 4) dot_rows<kBits, 4>(a, tail, token);
  switch (a.n_tokens - token) {
    case 1:
      return dot_rows<kBits, 1>(a, tail, token);
    case 2:
      return dot_rows<kBits, 2>(a, tail, token);
    case 3:
      return dot_rows<kBits, 3>(a, tail, token);
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

}  // namespace

extern const PackedKernels kVnniKernels;
const PackedKernels kVnniKernels = {.quantize = quantize_avx512,
                                    .quantize_entries = quantize_entries_avx512,
                                    .dot = dot,
                                    .entry_dot = entry_dot_avx512};

}  // namespace deltacome::cpu
