// SPDX-License-Identifier: Apache-2.0
// Products of bf16 for AVX-512 BF16: 32 multiply-adds an instruction. Nothing of the standard
// library is used: see kernels_impl.h.
#include <immintrin.h>

#include "backend/cpu/packed_kernels.h"

#define DELTACOME_INLINE [[gnu::always_inline]] inline

namespace deltacome::cpu {
namespace {

constexpr int64_t kLanes = 32;
// Inputs of one pass, whose sums are added in order: 6 tokens of them stay in a first-level cache.
constexpr int64_t kInputs = 2048;

/// Columns of a pass.
struct Piece {
  int64_t first = 0;
  int64_t n = 0;
};

DELTACOME_INLINE __m512bh as_bf16(__m512i v) {
  return reinterpret_cast<__m512bh>(v);
}
DELTACOME_INLINE __mmask32 first(int64_t n) {
  return (__mmask32{1} << n) - 1;
}

/// Sums over the lanes of a, b, c, d: four of each, side by side.
DELTACOME_INLINE __m512 quad(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512d ab =
      _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
  const __m512d cd =
      _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
}
DELTACOME_INLINE __m512 halve(__m512 u, __m512 v) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(u, v, 0x88), _mm512_shuffle_f32x4(u, v, 0xdd));
}

/// The sums of a tile to y; every sum is taken over its lanes in the same order.
template <int T, int R>
DELTACOME_INLINE void store(const Bf16DotArgs& a, int64_t token, int64_t out, int64_t n_valid,
                            bool add, const __m512 (&sum)[T][R]) {
  constexpr int kQuads = T * R / 4;
  alignas(64) float values[(kQuads + 3) / 4 * 16];  // [T, R]
  __m512 quads[(kQuads + 3) / 4 * 4];
#pragma GCC unroll 16
  for (int q = 0; q < (kQuads + 3) / 4 * 4; ++q) {
    const int t = 4 * q / R, r = 4 * q % R;
    quads[q] = q < kQuads
                   ? quad(sum[t % T][r], sum[t % T][r + 1], sum[t % T][r + 2], sum[t % T][r + 3])
                   : _mm512_setzero_ps();
  }
#pragma GCC unroll 16
  for (int q = 0; q < kQuads; q += 4)
    _mm512_store_ps(values + 4 * q,
                    halve(halve(quads[q], quads[q + 1]), halve(quads[q + 2], quads[q + 3])));
  for (int t = 0; t < T; ++t) {
    float* y = a.y[token + t] + a.y_first + out;
    for (int64_t r = 0; r < n_valid; ++r) y[r] = add ? y[r] + values[t * R + r] : values[t * R + r];
  }
}

/// T tokens against R rows of w. Each result has one accumulator, so that neither T nor R changes
/// it.
template <int T, int R>
DELTACOME_INLINE void dot_tile(const Bf16DotArgs& a, Piece piece, int64_t token, int64_t out) {
  const int64_t n_valid = a.n_out - out < R ? a.n_out - out : R;
  const uint16_t* w[R];
  const uint16_t* x[T];
  __m512 sum[T][R];
  for (int r = 0; r < R; ++r) {  // rows past the end repeat the last one and are not stored
    w[r] = static_cast<const uint16_t*>(a.w) + (out + (r < n_valid ? r : n_valid - 1)) * a.k +
           piece.first;
    for (int t = 0; t < T; ++t) sum[t][r] = _mm512_setzero_ps();
  }
  for (int t = 0; t < T; ++t) x[t] = a.x[token + t] + piece.first;
  int64_t i = 0;
  for (; i + kLanes <= piece.n; i += kLanes) {
    __m512bh xs[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) xs[t] = as_bf16(_mm512_loadu_si512(x[t] + i));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh ws = as_bf16(_mm512_loadu_si512(w[r] + i));
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sum[t][r] = _mm512_dpbf16_ps(sum[t][r], xs[t], ws);
    }
  }
  if (i < piece.n) {
    const __mmask32 mask = first(piece.n - i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh ws = as_bf16(_mm512_maskz_loadu_epi16(mask, w[r] + i));
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
        sum[t][r] =
            _mm512_dpbf16_ps(sum[t][r], as_bf16(_mm512_maskz_loadu_epi16(mask, x[t] + i)), ws);
    }
  }
  store<T, R>(a, token, out, n_valid, piece.first > 0, sum);
}

template <int T, int R>
void dot_rows(const Bf16DotArgs& a, Piece piece, int64_t token) {
  for (int64_t out = 0; out < a.n_out; out += R) dot_tile<T, R>(a, piece, token, out);
}

void dot_piece(const Bf16DotArgs& a, Piece piece) {
  int64_t token = 0;
  for (; token + 6 <= a.n_tokens; token += 6) dot_rows<6, 4>(a, piece, token);
  switch (a.n_tokens - token) {
    case 1:
      return dot_rows<1, 8>(a, piece, token);
    case 2:
      return dot_rows<2, 8>(a, piece, token);
    case 3:
      return dot_rows<3, 4>(a, piece, token);
    case 4:
      return dot_rows<4, 4>(a, piece, token);
    case 5:
      return dot_rows<5, 4>(a, piece, token);
    default:
      return;
  }
}

void dot(const Bf16DotArgs& a) {
  for (int64_t first = 0; first < a.k; first += kInputs)
    dot_piece(a, {first, a.k - first < kInputs ? a.k - first : kInputs});
}

void round(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask =
        n - i >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << (n - i)) - 1);
    const __m256i v =
        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i)));
    _mm256_mask_storeu_epi16(out + i, mask, v);
  }
}

}  // namespace

extern const Bf16Kernels kAvx512Bf16Kernels;
const Bf16Kernels kAvx512Bf16Kernels = {.round = round, .dot = dot};

}  // namespace deltacome::cpu
