// SPDX-License-Identifier: Apache-2.0
// Products of packed codes for AVX-512 with VNNI and VBMI. A 2-bit weight costs 0.04 instructions
// for one token: per unit of 256 a load, 4 of unpacking, 4 vpdpbusd, and per group of 2,048 some 9
// of scaling. For many tokens unpacking and loads are shared by 8 of them and 2 panels. Nothing of
// the standard library is used: see kernels_impl.h.
#include "backend/cpu/packed_avx512.h"

namespace deltacome::cpu {
namespace {

// A panel is read from its first to its last byte, the next follows. Measured on a Zen 5: 1 KiB is
// a tenth slower from memory.
constexpr int64_t kAhead = 4096;  // bytes

using Int32 [[gnu::may_alias]] = int32_t;

/// The vectors of a unit.
template <int kBits>
struct Unit {
  static constexpr int kVectors = kBits == 3 ? 3 : 1;
  __m512i v[kVectors];

  /// kOnce: no other token will need it.
  template <bool kOnce>
  DELTACOME_INLINE void read(const uint8_t* p) {
    for (int i = 0; i < kVectors; ++i) {
      _mm_prefetch(p + 64 * i + kAhead, kOnce ? _MM_HINT_NTA : _MM_HINT_T0);
      v[i] = _mm512_load_si512(p + 64 * i);
      keep(v[i]);
    }
  }
  /// The codes of a step, times 2^(kBits f).
  template <int f>
  DELTACOME_INLINE __m512i step_in_place() const {
    return _mm512_and_si512(v[0],
                            _mm512_set1_epi8(static_cast<char>(((1 << kBits) - 1) << kBits * f)));
  }
  /// The codes of a step.
  template <int f>
  DELTACOME_INLINE __m512i step() const {
    if constexpr (kBits == 8) return v[0];
    if constexpr (kBits == 3) {
      const __m512i low =
          _mm512_and_si512(_mm512_srli_epi16(v[f / 4], 2 * (f % 4)), _mm512_set1_epi8(3));
      const __m512i high = f < 2 ? _mm512_slli_epi16(v[2], f < 2 ? 2 - f : 0)
                                 : _mm512_srli_epi16(v[2], f < 2 ? 0 : f - 2);
      return _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8(4), 0xf8);  // low | (high & 4)
    }
    const __m512i shifted = f == 0 ? v[0] : _mm512_srli_epi16(v[0], kBits * f % 16);
    return _mm512_and_si512(shifted, _mm512_set1_epi8((1 << kBits % 8) - 1));
  }
};

/// R panels against T tokens. Sums of a group are exact in integers; float sums are in memory
/// between groups, so that their number does not spill what the loop of a group needs.
template <int kBits, int64_t kRows, int R, int T>
struct Tile {
  static constexpr int64_t kCols = kPanelBytes / kRows;  // of a step
  static constexpr int kSteps = static_cast<int>(unit_steps(kBits));
  // Independent chains of vpdpbusd, of which each waits for the one before it.
  static constexpr int kWanted = R * T >= 4 ? 1 : 4;
  static constexpr int kChains = kWanted < kSteps ? kWanted : kSteps;
  // Where each step has sums of its own, these are shifted instead of the codes.
  static constexpr bool kInPlace = (kBits == 2 || kBits == 4) && kChains == kSteps;
  using Products = __m512i[R][T][kChains];

  const uint8_t* codes[R];
  const uint8_t* scales[R];
  const QuantizedRow* const* x;
  const int8_t* bytes[T];  // of x

  template <int f>
  DELTACOME_INLINE void add_step(const Unit<kBits> (&unit)[R], int64_t col,
                                 Products& products) const {
    __m512i c[R];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      if constexpr (kInPlace) {
        c[r] = unit[r].template step_in_place<f>();
      } else {
        c[r] = unit[r].template step<f>();
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const int8_t* at = bytes[t] + col + f * kCols;
      if constexpr (kCols == 4 && R == 1) {
        add_products(products[0][t][f % kChains], c[0], *reinterpret_cast<const Int32*>(at));
        continue;
      }
      __m512i xs;
      if constexpr (kCols == 4) {
        xs = _mm512_set1_epi32(*reinterpret_cast<const Int32*>(at));
      } else {
        xs = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
      }
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) add_products(products[r][t][f % kChains], c[r], xs);
    }
    if constexpr (f + 1 < kSteps) add_step<f + 1>(unit, col, products);
  }

  DELTACOME_INLINE void add_unit(int64_t g, int64_t u, Products& products) const {
    constexpr int64_t kUnits = group_units(kBits, kRows, kGroup), kBytes = unit_bytes(kBits);
    Unit<kBits> unit[R];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r)
      unit[r].template read<R * T == 1>(codes[r] + (g * kUnits + u) * kBytes);
    add_step<0>(unit, g * kGroup + u * kSteps * kCols, products);
  }

  /// Group g into sums [R, T, 16], and what the center of codes is multiplied with into centers,
  /// if codes have scales of groups.
  DELTACOME_INLINE void add_group(const PackedShape& shape, int64_t g, float* sums,
                                  float* centers) const {
    Products products;
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
        for (int i = 0; i < kChains; ++i) products[r][t][i] = _mm512_setzero_si512();
      }
    }
    constexpr int64_t kUnits = group_units(kBits, kRows, kGroup);
    const int64_t left = shape.cols - g * kGroup;
    if (left >= kGroup) {
#pragma GCC unroll 8
      for (int64_t u = 0; u < kUnits; ++u) add_unit(g, u, products);
    } else {
      for (int64_t u = 0; u < group_units(kBits, kRows, left); ++u) add_unit(g, u, products);
    }
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const bool grouped = shape.scale == PackedScale::kGroup;
      __m512 scale = _mm512_set1_ps(1);
      if (grouped) {
        if constexpr (kRows == kPanelRows) {
          scale = _mm512_cvtph_ps(
              _mm256_load_si256(reinterpret_cast<const __m256i*>(scales[r] + 2 * kRows * g)));
        } else {  // each row's, for its four sums
          const __m128 four = _mm_maskz_cvtph_ps(
              0xf, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales[r] + 2 * kRows * g)));
          scale = _mm512_permutexvar_ps(
              _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
              _mm512_castps128_ps512(four));
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        __m512i total = products[r][t][0];
#pragma GCC unroll 4
        for (int i = 1; i < kChains; ++i)
          total = _mm512_add_epi32(total,
                                   _mm512_srai_epi32(products[r][t][i], kInPlace ? kBits * i : 0));
        float* sum = sums + 16 * (r * T + t);
        const __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(x[t]->scale[g]));
        _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), by, _mm512_load_ps(sum)));
        if (!grouped) continue;
        float* center = centers + 16 * (r * T + t);
        _mm512_store_ps(
            center, _mm512_fmadd_ps(scale, _mm512_set1_ps(x[t]->sum[g]), _mm512_load_ps(center)));
      }
    }
  }
};

/// Sums of lanes by fours, in every lane of the four.
DELTACOME_INLINE __m512 sum_fours(__m512 v) {
  v = _mm512_add_ps(v, _mm512_permute_ps(v, 0xb1));
  return _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e));
}

/// Sums of a panel become results of its `count` rows from `row` of the call on.
template <int64_t kRows>
DELTACOME_INLINE void finish(const PackedDotArgs& a, int64_t row, int64_t count, int64_t token,
                             const float* sums, const float* centers) {
  __m512 sum = _mm512_load_ps(sums), around = _mm512_set1_ps(a.x[token]->total);
  const bool grouped = a.shape->scale == PackedScale::kGroup;
  if (grouped) around = _mm512_load_ps(centers);
  if constexpr (kRows == kNarrowRows) {
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    sum = _mm512_permutexvar_ps(firsts, sum_fours(sum));
    if (grouped) around = _mm512_permutexvar_ps(firsts, around);  // the same in all four lanes
  }
  const __mmask16 valid = first_floats(count);
  const __m512 center = _mm512_set1_ps(-a.shape->center);
  __m512 by = _mm512_set1_ps(a.scale);
  if (a.row_scale != nullptr)
    by = _mm512_mul_ps(by, _mm512_maskz_loadu_ps(valid, a.row_scale + row));
  __m512 v = _mm512_mul_ps(by, _mm512_fmadd_ps(center, around, sum));
  float* y = a.y[token] + a.y_first + row;
  if (a.add) v = _mm512_add_ps(_mm512_maskz_loadu_ps(valid, y), v);
  _mm512_mask_storeu_ps(y, valid, v);
}

/// Panels of rows [row, end) of the call, R at a time, against tokens [token, token + T).
template <int kBits, int64_t kRows, int R, int T>
[[gnu::noinline]] void dot_tiles(const PackedDotArgs& a, int64_t row, int64_t end, int64_t token) {
  const PackedShape& shape = *a.shape;
  const int64_t panel_bytes = kRows == kPanelRows ? shape.whole_bytes : shape.narrow_bytes;
  const int64_t scale_bytes = 2 * kRows * shape.n_groups;
  Tile<kBits, kRows, R, T> tile;
  tile.x = a.x + token;
  for (int t = 0; t < T; ++t) tile.bytes[t] = tile.x[t]->bytes;
  for (int r = 0; r < R; ++r) {
    tile.codes[r] = a.codes + panel_offset(shape, a.n_rows, a.first + row) + r * panel_bytes;
    tile.scales[r] = a.codes + scale_offset(shape, a.n_rows, a.first + row) + r * scale_bytes;
  }
  for (; row < end; row += R * kRows) {
    alignas(64) float sums[16 * R * T] = {}, centers[16 * R * T] = {};
    for (int64_t g = 0; g < shape.n_groups; ++g) tile.add_group(shape, g, sums, centers);
    for (int r = 0; r < R; ++r) {
      const int64_t at = row + r * kRows, left = a.count - at;
      for (int t = 0; t < T; ++t) {
        finish<kRows>(a, at, left < kRows ? left : kRows, token + t, sums + 16 * (r * T + t),
                      centers + 16 * (r * T + t));
      }
      tile.codes[r] += R * panel_bytes;
      tile.scales[r] += R * scale_bytes;
    }
  }
}

/// Panels of few rows, or whole ones against few tokens.
template <int kBits, int64_t kRows>
DELTACOME_INLINE void dot_panels(const PackedDotArgs& a, int64_t row, int64_t end, int64_t token) {
  if (row >= end) return;
  for (; token + 4 <= a.n_tokens; token += 4) dot_tiles<kBits, kRows, 1, 4>(a, row, end, token);
  if (token + 2 <= a.n_tokens) {
    dot_tiles<kBits, kRows, 1, 2>(a, row, end, token);
    token += 2;
  }
  if (token < a.n_tokens) dot_tiles<kBits, kRows, 1, 1>(a, row, end, token);
}

template <int kBits>
void dot_bits(const PackedDotArgs& a) {
  constexpr int kTokens = 8;
  const int64_t whole = a.n_rows / kPanelRows * kPanelRows - a.first;  // rows of the call in panels
  int64_t n = whole < a.count ? whole : a.count;                       // of 16
  if (n < 0) n = 0;
  const int64_t pairs = n / (2 * kPanelRows) * (2 * kPanelRows);
  const int64_t many = a.n_tokens / kTokens * kTokens;
  for (int64_t token = 0; token < many; token += kTokens)
    dot_tiles<kBits, kPanelRows, 2, kTokens>(a, 0, pairs, token);
  dot_panels<kBits, kPanelRows>(a, 0, pairs, many);
  dot_panels<kBits, kPanelRows>(a, pairs, n, 0);
  dot_panels<kBits, kNarrowRows>(a, n, a.count, 0);
}

void dot(const PackedDotArgs& a) {
  visit_packed_bits(a.shape->bits, [&](auto bits) { dot_bits<decltype(bits)::value>(a); });
}

}  // namespace

extern const PackedKernels kVnniKernels;
const PackedKernels kVnniKernels = {.quantize = quantize_avx512,
                                    .quantize_entries = quantize_entries_avx512,
                                    .dot = dot,
                                    .entry_dot = entry_dot_avx512};

}  // namespace deltacome::cpu
