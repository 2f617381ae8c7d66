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

/// How the bytes of a run of n <= 128 columns of `bits` bits become columns in order: byte `index`
/// of the run, shifted right.
struct RunMap {
  __m512i index[2], shift[2];  // of columns [0, 64) and [64, 128)
  __mmask64 valid[2];
  __mmask64 bytes;

  DELTACOME_INLINE void make(int bits, int64_t n) {
    alignas(64) uint8_t from[128] = {}, by[128] = {};
    const int64_t stride = packed_run_bytes(bits, n);
    for (int64_t field = 0, k = 0; k < n; ++field) {
      for (int64_t j = 0; j < stride && k < n; ++j, ++k) {
        from[k] = static_cast<uint8_t>(j);
        by[k] = static_cast<uint8_t>(8 * (k % 8) + bits * field);  // of the byte in its 8 bytes
      }
    }
    bytes = first_bytes(stride);
    for (int i = 0; i < 2; ++i) {
      index[i] = load(from + 64 * i);
      shift[i] = load(by + 64 * i);
      valid[i] = first_bytes(n - 64 * i < 0 ? 0 : n - 64 * i);
    }
  }
  template <int kMask>
  DELTACOME_INLINE __m512i codes(const uint8_t* p, int i) const {
    const __m512i raw = _mm512_maskz_loadu_epi8(bytes, p);
    const __m512i placed = _mm512_maskz_permutexvar_epi8(valid[i], index[i], raw);
    return _mm512_and_si512(_mm512_multishift_epi64_epi8(shift[i], placed),
                            _mm512_set1_epi8(kMask));
  }
};

/// The columns behind the whole blocks: groups of 128, then the rest.
template <int kBits>
struct Tail {
  static constexpr int kLow = kBits == 3 ? 2 : kBits;
  int64_t first = 0;   // column
  int64_t offset = 0;  // byte
  RunMap rest[2];      // of the last, cut group; of 3 bits also of the high bits

  DELTACOME_INLINE explicit Tail(const PackedShape& shape) {
    first = shape.n_blocks * packed_block_cols(kBits);
    offset = shape.n_blocks * packed_run_bytes(kBits, packed_block_cols(kBits));
    const int64_t n = shape.cols % kGroup;
    if (kBits == 8 || n == 0) return;
    rest[0].make(kLow, n);
    if (kBits == 3) rest[1].make(1, n);
  }
  /// Columns [64 i, 64 i + 64) of a run of n columns.
  DELTACOME_INLINE __m512i codes(const uint8_t* p, int64_t n, int i) const {
    if constexpr (kBits == 8) {
      const int64_t left = n - 64 * i;
      return _mm512_maskz_loadu_epi8(first_bytes(left < 0 ? 0 : left), p + 64 * i);
    }
    const bool whole = n == kGroup;
    __m512i low;
    if constexpr (kLow == 4) {
      low = rest[0].template codes<15>(p, i);
    } else {
      low = whole ? group_codes<kLow>(p, i) : rest[0].template codes<(1 << kLow % 8) - 1>(p, i);
    }
    if constexpr (kBits != 3) return low;
    p += packed_run_bytes(2, n);
    const __m512i high = whole ? group_codes<1>(p, i) : rest[1].template codes<1>(p, i);
    return _mm512_or_si512(low, _mm512_slli_epi16(high, 2));
  }

 private:
  /// The same of 128 columns of 1 or 2 bits: fields of 16 or 32 bytes beside each other.
  template <int kWidth>
  DELTACOME_INLINE static __m512i group_codes(const uint8_t* p, int i) {
    if constexpr (kWidth == 2) {
      const __m512i bytes =
          _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
      const auto by = static_cast<int16_t>(4 * i);
      const __m512i shift = _mm512_inserti64x4(_mm512_set1_epi16(by),
                                               _mm256_set1_epi16(static_cast<int16_t>(by + 2)), 1);
      return _mm512_and_si512(_mm512_srlv_epi16(bytes, shift), _mm512_set1_epi8(3));
    }
    const __m512i bytes =
        _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512i lane =
        _mm512_setr_epi64(0, 0, 0x0001000100010001, 0x0001000100010001, 0x0002000200020002,
                          0x0002000200020002, 0x0003000300030003, 0x0003000300030003);
    const __m512i shift = _mm512_add_epi16(lane, _mm512_set1_epi16(static_cast<int16_t>(4 * i)));
    return _mm512_and_si512(_mm512_srlv_epi16(bytes, shift), _mm512_set1_epi8(1));
  }
};

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
