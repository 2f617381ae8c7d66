// SPDX-License-Identifier: Apache-2.0
// Products of packed codes with many tokens, AVX-512 with VNNI and VBMI. Codes become bytes once
// for all of them; then a weight and token cost 1/43 instruction of the multipliers, of which a
// core of Zen 4 does one a cycle (per 128 columns 2 vpdpbusd and a multiply-add). Sums have the
// order of packed_avx512.cc, so that the number of tokens changes no result.
#include <utility>

#include "backend/cpu/packed_avx512_codes.h"
#include "backend/cpu/packed_avx512_sums.h"

namespace deltacome::cpu {
namespace {

constexpr int kTokens = 4;  // of a tile
constexpr int kRows = 4;
// Groups of columns at a time: of 4 tokens 8 KiB, beside 8 KiB of sums in a first-level cache.
constexpr int64_t kPieceGroups = 8;
static_assert(kTokens == kPackedTileTokens);

/// The codes of a row as bytes, to whole groups. Those behind the last column are any: they are
/// multiplied with zeros.
template <int kBits>
void expand(const PackedShape& shape, const Tail<kBits>& tail, const uint8_t* row, uint8_t* out) {
  constexpr int64_t kCols = packed_block_cols(kBits), kBytes = packed_run_bytes(kBits, kCols);
  using B = Block<kBits>;
  for (int64_t b = 0; b < shape.n_blocks; ++b, out += kCols) {
    B block;
    block.read(row + b * kBytes);
    [&]<int... c>(std::integer_sequence<int, c...>) {
      (_mm512_storeu_si512(out + 64 * c, block.template chunk<c>()), ...);
    }
    (std::make_integer_sequence<int, static_cast<int>(kCols / 64)>());
  }
  row += tail.offset;
  for (int64_t at = tail.first; at < shape.cols; at += kGroup, out += kGroup) {
    const int64_t n = shape.cols - at < kGroup ? shape.cols - at : kGroup;
    _mm512_storeu_si512(out, tail.codes(row, n, 0));
    _mm512_storeu_si512(out + 64, tail.codes(row, n, 1));
    row += packed_run_bytes(kBits, n);
  }
}

/// Groups of R expanded rows against T tokens.
template <int R, int T>
[[gnu::noinline]] void multiply(const uint8_t* codes, int64_t stride, const QuantizedRow* const* x,
                                const float* const* scales, int64_t scale_stride,
                                int64_t first_group, int64_t n_groups, Lanes* products,
                                int64_t lane) {
  __m512 sums[R][T];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) sums[r][t] = _mm512_load_ps(products[t][lane + r]);
  }
  for (int64_t g = first_group; g < first_group + n_groups; ++g) {
    const int64_t at = g * kGroup;
    __m512i c[R][2];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      c[r][0] = load(codes + r * stride + at);
      c[r][1] = load(codes + r * stride + at + 64);
      keep(c[r][0]);
      keep(c[r][1]);
    }
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      __m512i x0 = load(x[t]->bytes + at), x1 = load(x[t]->bytes + at + 64);
      keep(x0);
      keep(x1);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        sums[r][t] =
            add_group(sums[r][t], c[r][0], c[r][1], x0, x1, scales[t][r * scale_stride + g]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) _mm512_store_ps(products[t][lane + r], sums[r][t]);
  }
}

/// n <= 16 expanded rows against the tokens of a tile.
template <int kBits>
void dot_tile(const PackedDotArgs& a, const uint8_t* codes, int64_t stride, int64_t row, int64_t n,
              int64_t token, float* scratch) {
  const PackedShape& shape = *a.shape;
  const QuantizedRow* const* x = a.x + token;
  alignas(64) Lanes products[kTokens] = {}, centers[kTokens];
  const float* scales[kTokens];
  const bool grouped = shape.scale == PackedScale::kGroup;
  const int64_t scale_stride = grouped ? packed_scale_stride(shape) : 0;
  for (int t = 0; t < kTokens; ++t) {
    float* const own = scratch + t * kPackedLaneRows * scale_stride;
    scales[t] = grouped ? own : x[t]->scale;
    for (int64_t r = 0; grouped && r < n; ++r)
      scale_groups(shape, a.rows + (row + r) * shape.row_bytes, *x[t], own + r * scale_stride,
                   centers[t][r]);
  }
  for (int64_t g = 0; g < shape.n_groups; g += kPieceGroups) {
    const int64_t n_groups = shape.n_groups - g < kPieceGroups ? shape.n_groups - g : kPieceGroups;
    for (int64_t r = 0, at_once = 0; r < n; r += at_once) {
      const float* at[kTokens];
      for (int t = 0; t < kTokens; ++t) at[t] = scales[t] + r * scale_stride;
      const uint8_t* const from = codes + r * stride;
      at_once = r + kRows <= n ? kRows : 1;
      if (at_once == kRows) {
        multiply<kRows, kTokens>(from, stride, x, at, scale_stride, g, n_groups, products, r);
      } else {
        multiply<1, kTokens>(from, stride, x, at, scale_stride, g, n_groups, products, r);
      }
    }
  }
  finish<kBits, kTokens>(a, row, n, token, products, centers);
}

template <int kBits>
void dot_many(const PackedDotArgs& a, int64_t n_tokens) {
  const PackedShape& shape = *a.shape;
  const Tail<kBits> tail(shape);
  const int64_t stride = spread_stride(shape.n_groups * kGroup);
  float* const scales = a.scratch;
  auto* const codes =
      reinterpret_cast<uint8_t*>(scales + kPackedLaneRows * kTokens * packed_scale_stride(shape));
  for (int64_t first = 0; first < a.n_rows; first += kPackedManyRows) {
    const int64_t n = a.n_rows - first < kPackedManyRows ? a.n_rows - first : kPackedManyRows;
    for (int64_t r = 0; r < n; ++r)
      expand<kBits>(shape, tail, a.rows + (first + r) * shape.row_bytes, codes + r * stride);
    for (int64_t token = 0; token < n_tokens; token += kTokens) {
      for (int64_t r = 0; r < n; r += kPackedLaneRows) {
        dot_tile<kBits>(a, codes + r * stride, stride, first + r,
                        n - r < kPackedLaneRows ? n - r : kPackedLaneRows, token, scales);
      }
    }
  }
}

}  // namespace

int64_t dot_many_avx512(const PackedDotArgs& a) {
  if (a.n_tokens < kPackedManyTokens) return 0;
  const int64_t n_tokens = a.n_tokens / kTokens * kTokens;
  visit_packed_bits(a.shape->bits,
                    [&](auto bits) { dot_many<decltype(bits)::value>(a, n_tokens); });
  return n_tokens;
}

}  // namespace deltacome::cpu
