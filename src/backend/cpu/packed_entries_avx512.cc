// SPDX-License-Identifier: Apache-2.0
// Products of vector codes for AVX-512 with VNNI and VBMI: per 64 weights and token a vpdpbusd, and
// 2 permutations and a blend that all tokens of a tile share, or all of a call if they are many.
#include "backend/cpu/packed_avx512.h"

namespace deltacome::cpu {
namespace {

// Measured on a Zen 4; further than packed_avx512.cc as rows have fewer bytes.
constexpr int64_t kAhead = 4096;

/// A plane of 256 elements in four registers. (A struct of them would be written to memory, over
/// and over.)
DELTACOME_INLINE void load_plane(const uint8_t* plane, __m512i& p0, __m512i& p1, __m512i& p2,
                                 __m512i& p3) {
  keep(p0 = load(plane));
  keep(p1 = load(plane + 64));
  keep(p2 = load(plane + 128));
  keep(p3 = load(plane + 192));
}

/// An element of 64 entries: two permutations, and the top bit of the code chooses.
DELTACOME_INLINE __m512i look_up(__m512i codes, __mmask64 upper, __m512i p0, __m512i p1, __m512i p2,
                                 __m512i p3) {
  return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(p0, codes, p1),
                                _mm512_permutex2var_epi8(p2, codes, p3));
}

DELTACOME_INLINE __m512 add_block(__m512 sum, __m512i products, float scale) {
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), _mm512_set1_ps(scale), sum);
}

DELTACOME_INLINE void finish(const EntryDotArgs& a, int64_t row, int64_t token, __m512 sum) {
  const float by = a.row_scale[row] * 0.03125f;
  a.y[token][a.y_first + row] +=
      by * __builtin_fmaf(-128.0f, a.x[token]->total, _mm512_reduce_add_ps(sum));
}

/// R rows against T tokens.
template <int R, int T>
void entry_tile(const EntryDotArgs& a, int64_t row, int64_t token) {
  const QuantizedRow* const* x = a.x + token;
  __m512 sums[R][T];
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) sums[r][t] = _mm512_setzero_ps();
  }
  const int64_t block = int64_t{kEntryBlock} * a.dim;
  for (int64_t b = 0; b * kEntryBlock < a.n_codes; ++b) {
    __m512i codes[R], products[R][T];
    __mmask64 upper[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const uint8_t* at = a.codes + (row + r) * a.n_codes + b * kEntryBlock;
      _mm_prefetch(at + kAhead, _MM_HINT_T0);
      codes[r] = _mm512_maskz_loadu_epi8(first_bytes(a.n_codes - b * kEntryBlock), at);
      upper[r] = _mm512_movepi8_mask(codes[r]);
      for (int t = 0; t < T; ++t) products[r][t] = _mm512_setzero_si512();
    }
    for (int p = 0; p < a.dim; ++p) {
      __m512i p0, p1, p2, p3;
      load_plane(a.planes + 256 * p, p0, p1, p2, p3);
      __m512i xs[T];
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        xs[t] = load(x[t]->bytes + b * block + p * kEntryBlock);
        keep(xs[t]);
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m512i values = look_up(codes[r], upper[r], p0, p1, p2, p3);
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) add_products(products[r][t], values, xs[t]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t)
        sums[r][t] = add_block(sums[r][t], products[r][t], x[t]->scale[b]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) finish(a, row + r, token + t, sums[r][t]);
  }
}

template <int R, int T>
void entry_rows(const EntryDotArgs& a, int64_t token) {
  int64_t row = 0;
  for (; row + R <= a.n_rows; row += R) entry_tile<R, T>(a, row, token);
  for (; row < a.n_rows; ++row) entry_tile<1, T>(a, row, token);
}

// Of many tokens: entries are looked up once for all of them.
constexpr int kManyTokens = kPackedTileTokens;  // of a tile
constexpr int kManyRows = 2;
constexpr int64_t kPieceCols = 1024;  // of 4 tokens 8 KiB, beside 8 KiB of sums

/// The entries of a row, in the order of its input: 64 elements 0, 64 elements 1, ...
void expand_entries(const EntryDotArgs& a, const uint8_t* row, uint8_t* out) {
  for (int p = 0; p < a.dim; ++p) {
    __m512i p0, p1, p2, p3;
    load_plane(a.planes + 256 * p, p0, p1, p2, p3);
    for (int64_t b = 0; b * kEntryBlock < a.n_codes; ++b) {
      const __m512i codes =
          _mm512_maskz_loadu_epi8(first_bytes(a.n_codes - b * kEntryBlock), row + b * kEntryBlock);
      _mm512_storeu_si512(out + (b * a.dim + p) * kEntryBlock,
                          look_up(codes, _mm512_movepi8_mask(codes), p0, p1, p2, p3));
    }
  }
}

/// Blocks [first, first + n) of R rows against a tile of tokens; sums [R, tokens, 16 lanes].
template <int R>
[[gnu::noinline]] void multiply_entries(const EntryDotArgs& a, const uint8_t* values,
                                        int64_t row_bytes, int64_t first, int64_t n, int64_t token,
                                        float* sums) {
  constexpr int T = kManyTokens;
  const QuantizedRow* const* x = a.x + token;
  for (int64_t b = first; b < first + n; ++b) {
    __m512i products[R][T];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) products[r][t] = _mm512_setzero_si512();
    }
    for (int p = 0; p < a.dim; ++p) {
      const int64_t at = (b * a.dim + p) * kEntryBlock;
      __m512i v[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        v[r] = load(values + r * row_bytes + at);
        keep(v[r]);
      }
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        __m512i xs = load(x[t]->bytes + at);
        keep(xs);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) add_products(products[r][t], v[r], xs);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        float* const sum = sums + 16 * (r * T + t);
        _mm512_store_ps(sum, add_block(_mm512_load_ps(sum), products[r][t], x[t]->scale[b]));
      }
    }
  }
}

/// The first tokens of a call with many of them; returns how many.
int64_t entry_many(const EntryDotArgs& a) {
  if (a.n_tokens < kPackedManyTokens) return 0;
  const int64_t n_tokens = a.n_tokens / kManyTokens * kManyTokens;
  const int64_t n_blocks = (a.n_codes + kEntryBlock - 1) / kEntryBlock;
  const int64_t row_bytes = spread_stride(n_blocks * kEntryBlock * a.dim);
  const int64_t at_once = kPieceCols / (kEntryBlock * a.dim);  // at least one: dim <= 16
  float* const sums = a.scratch;
  auto* const values =
      reinterpret_cast<uint8_t*>(a.scratch + int64_t{kPackedManyRows} * kManyTokens * 16);
  for (int64_t row = 0; row < a.n_rows; row += kPackedManyRows) {
    const int64_t n = a.n_rows - row < kPackedManyRows ? a.n_rows - row : kPackedManyRows;
    for (int64_t r = 0; r < n; ++r)
      expand_entries(a, a.codes + (row + r) * a.n_codes, values + r * row_bytes);
    for (int64_t token = 0; token < n_tokens; token += kManyTokens) {
      for (int64_t i = 0; i < n * kManyTokens; ++i)
        _mm512_store_ps(sums + 16 * i, _mm512_setzero_ps());
      for (int64_t b = 0; b < n_blocks; b += at_once) {
        const int64_t count = n_blocks - b < at_once ? n_blocks - b : at_once;
        for (int64_t r = 0; r < n; r += kManyRows) {
          const uint8_t* from = values + r * row_bytes;
          float* to = sums + 16 * r * kManyTokens;
          if (r + kManyRows <= n) {
            multiply_entries<kManyRows>(a, from, row_bytes, b, count, token, to);
          } else {
            multiply_entries<1>(a, from, row_bytes, b, count, token, to);
          }
        }
      }
      for (int64_t i = 0; i < n * kManyTokens; ++i)
        finish(a, row + i / kManyTokens, token + i % kManyTokens, _mm512_load_ps(sums + 16 * i));
    }
  }
  return n_tokens;
}

}  // namespace

void entry_dot_avx512(const EntryDotArgs& a) {
  int64_t token = entry_many(a);
  for (; token + 4 <= a.n_tokens; token += 4) entry_rows<2, 4>(a, token);
  for (; token + 2 <= a.n_tokens; token += 2) entry_rows<4, 2>(a, token);
  if (token < a.n_tokens) entry_rows<4, 1>(a, token);
}

}  // namespace deltacome::cpu
