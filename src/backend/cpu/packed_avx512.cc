// SPDX-License-Identifier: Apache-2.0
// Products of packed codes for AVX-512 with VNNI and VBMI. A 2-bit weight costs 0.06 instructions
// for one token (per block of 256: 1 load, 7 of unpacking, 4 vpdpbusd, 4 of scaling), of which a
// core of Zen 4 does two a cycle. Nothing of the standard library is used: see kernels_impl.h.
#include "backend/cpu/packed_avx512.h"

#include "backend/cpu/packed_avx512_codes.h"
#include "backend/cpu/packed_avx512_sums.h"

namespace deltacome::cpu {
namespace {

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
    const int8_t* bytes = x[t]->bytes + at + g * kGroup;
    __m512i x0 = load(bytes), x1 = load(bytes + 64);
    if constexpr (R > 1) {
      keep(x0);
      keep(x1);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      sums.f[r][t] = add_group(sums.f[r][t], codes[r][0], codes[r][1], x0, x1,
                               scales[t][r * scale_stride + group + g]);
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
      const __m512i c0 = tail.codes(rows[r] + offset, n, 0);
      const __m512i c1 = tail.codes(rows[r] + offset, n, 1);
      for (int t = 0; t < T; ++t) {
        const int8_t* bytes = x[t]->bytes + at;
        sums.f[r][t] = add_group(sums.f[r][t], c0, c1, load(bytes), load(bytes + 64),
                                 scales[t][r * scale_stride + at / kGroup]);
      }
    }
    offset += packed_run_bytes(kBits, n);
  }
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
    scale_stride = packed_scale_stride(shape);
    for (int r = 0; r < R; ++r) {
      for (int t = 0; t < T; ++t)
        scale_groups(shape, rows[r], *x[t], a.scratch + (t * R + r) * scale_stride,
                     centers[t][lane + r]);
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
  finish<kBits, T>(a, row, n, token, products, centers);
}

template <int kBits, int T>
void dot_rows(const PackedDotArgs& a, const Tail<kBits>& tail, int64_t token) {
  for (int64_t row = 0; row < a.n_rows; row += kPackedLaneRows) {
    const int64_t left = a.n_rows - row;
    dot_lanes<kBits, T>(a, tail, row, left < kPackedLaneRows ? left : kPackedLaneRows, token);
  }
}

/// Tokens from `token` on.
template <int kBits>
void dot_bits(const PackedDotArgs& a, int64_t token) {
  const Tail<kBits> tail(*a.shape);
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
  const int64_t done = dot_many_avx512(a);
  if (done == a.n_tokens) return;
  visit_packed_bits(a.shape->bits, [&](auto bits) { dot_bits<decltype(bits)::value>(a, done); });
}

}  // namespace

extern const PackedKernels kVnniKernels;
const PackedKernels kVnniKernels = {.quantize = quantize_avx512,
                                    .quantize_entries = quantize_entries_avx512,
                                    .dot = dot,
                                    .entry_dot = entry_dot_avx512};

}  // namespace deltacome::cpu
