// SPDX-License-Identifier: Apache-2.0
// Products of vector codes for AVX-512 with VNNI and VBMI. For a few tokens a code is looked up in
// the sums that quantize_entries_avx512() made of its inputs: per 64 codes, of 4 to 16 weights
// each, 4 permutations, 2 blends and 7 instructions of adding up. For many, codes become elements
// once for all of them, and these are multiplied as packed codes are. Either way sums of a group of
// codes are exact in integers, and groups are added in their order, so that the number of tokens
// changes no result.
#include "backend/cpu/packed_avx512.h"

namespace deltacome::cpu {
namespace {

constexpr int64_t kBlocks = 32;  // of rows whose sums are kept at a time
constexpr int64_t kAhead = 4;    // blocks that codes are fetched before; measured on a Zen 5
constexpr int64_t kPanels = kEntryRows / kPanelRows;
constexpr int64_t kPieces = kEntryGroup / kEntryPiece;  // of a group

using Int32 [[gnu::may_alias]] = int32_t;

/// A table of 256 bytes in four registers. (A struct of them would be written to memory, over and
/// over.)
DELTACOME_INLINE void load_table(const void* table, __m512i& p0, __m512i& p1, __m512i& p2,
                                 __m512i& p3) {
  const auto* bytes = static_cast<const uint8_t*>(table);
  keep(p0 = load(bytes));
  keep(p1 = load(bytes + 64));
  keep(p2 = load(bytes + 128));
  keep(p3 = load(bytes + 192));
}

/// The bytes of 64 codes: two permutations, and the top bit of the code chooses.
DELTACOME_INLINE __m512i look_up(__m512i codes, __mmask64 upper, __m512i p0, __m512i p1, __m512i p2,
                                 __m512i p3) {
  return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(p0, codes, p1),
                                _mm512_permutex2var_epi8(p2, codes, p3));
}

DELTACOME_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/// y += row_scale / 32 * sums of 16 rows, `count` of them valid.
DELTACOME_INLINE void finish(const EntryDotArgs& a, int64_t row, int64_t count, int64_t token,
                             __m512 sums) {
  const __mmask16 valid = first_floats(count < 0 ? 0 : count);
  const __m512 by =
      _mm512_mul_ps(_mm512_maskz_loadu_ps(valid, a.row_scale + row), _mm512_set1_ps(0.03125f));
  float* y = a.y[token] + a.y_first + row;
  _mm512_mask_storeu_ps(y, valid,
                        _mm512_add_ps(_mm512_maskz_loadu_ps(valid, y), _mm512_mul_ps(by, sums)));
}

/// Sums of bytes of neighbouring rows: in 16 bits, those of the even row plus 256 times those of
/// the odd one, modulo 2^16; and those of the odd one. Enough for 256 bytes.
struct PairSums {
  __m512i both, odd;
  DELTACOME_INLINE void add(__m512i bytes) {
    both = _mm512_add_epi16(both, bytes);
    odd = _mm512_add_epi16(odd, _mm512_srli_epi16(bytes, 8));
  }
  DELTACOME_INLINE __m512i even() const {
    return _mm512_sub_epi16(both, _mm512_slli_epi16(odd, 8));
  }
};

/// Low and high bytes of the sums of 64 rows.
struct BlockSums {
  PairSums low, high;
};

/// A piece of codes of R blocks, each of `width` rows but the last.
template <int R>
DELTACOME_INLINE void look_up_piece(const uint8_t* codes, int64_t width, int64_t ahead,
                                    const int8_t* tables, BlockSums* sums) {
  BlockSums s[R];
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) s[r] = sums[r];
  for (int64_t j = 0; j < kEntryPiece; ++j) {
    const int8_t* table = tables + j * kEntrySumBytes;
    __m512i l0, l1, l2, l3, h0, h1, h2, h3;
    load_table(table, l0, l1, l2, l3);
    load_table(table + kEntryBookSize, h0, h1, h2, h3);
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const uint8_t* at = codes + r * kEntryRows * kEntryPiece + j * width;
      _mm_prefetch(at + ahead, _MM_HINT_T0);
      __m512i c = width == kEntryRows ? load(at) : _mm512_maskz_loadu_epi8(first_bytes(width), at);
      keep(c);
      const __mmask64 upper = _mm512_movepi8_mask(c);
      s[r].low.add(look_up(c, upper, l0, l1, l2, l3));
      s[r].high.add(look_up(c, upper, h0, h1, h2, h3));
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) sums[r] = s[r];
}

/// 256 high + low of 16 rows, high bytes with 128 too much each.
DELTACOME_INLINE __m512 total_of(__m256i low, __m256i high, int64_t n_codes) {
  const __m512i wide = _mm512_sub_epi32(_mm512_cvtepu16_epi32(high),
                                        _mm512_set1_epi32(static_cast<int>(128 * n_codes)));
  return _mm512_cvtepi32_ps(
      _mm512_add_epi32(_mm512_slli_epi32(wide, 8), _mm512_cvtepu16_epi32(low)));
}

/// Sums of a group into those of the call: [even rows 0 to 31, 32 to 63, odd rows the same].
DELTACOME_INLINE void add_group(const BlockSums& s, int64_t n_codes, float scale, float* sums) {
  const __m512i low[2] = {s.low.even(), s.low.odd}, high[2] = {s.high.even(), s.high.odd};
  for (int i = 0; i < 4; ++i) {
    const __m512i l = low[i / 2], h = high[i / 2];
    const __m512 total =
        i % 2 == 0
            ? total_of(_mm512_castsi512_si256(l), _mm512_castsi512_si256(h), n_codes)
            : total_of(_mm512_extracti64x4_epi64(l, 1), _mm512_extracti64x4_epi64(h, 1), n_codes);
    float* const sum = sums + 16 * i;
    _mm512_store_ps(sum, _mm512_fmadd_ps(total, _mm512_set1_ps(scale), _mm512_load_ps(sum)));
  }
}

/// Up to kBlocks blocks from `row` of the call on against one token.
void look_up_blocks(const EntryDotArgs& a, int64_t row, int64_t n_blocks, int64_t token) {
  alignas(64) float sums[kBlocks][kEntryRows] = {};
  const QuantizedRow& x = *a.x[token];
  const int64_t n_pieces = entry_pieces(a.n_codes), first = a.first + row;
  const int64_t last_width = entry_block_rows(a.n_rows, first + (n_blocks - 1) * kEntryRows);
  const int64_t n_whole = last_width == kEntryRows ? n_blocks : n_blocks - 1;
  for (int64_t piece = 0; piece < n_pieces; piece += kPieces) {
    BlockSums of_group[kBlocks];
    const int64_t n = smaller(kPieces, n_pieces - piece);
    for (int64_t b = 0; b < n_blocks; ++b)
      of_group[b].low.both = of_group[b].low.odd = of_group[b].high.both = of_group[b].high.odd =
          _mm512_setzero_si512();
    // What is read kAhead blocks after block b: of this piece, or of the next.
    const int64_t next_piece = entry_offset(a.n_rows, 1, 0);
    const auto ahead = [&](int64_t b) {
      if (b + kAhead < n_blocks) return kAhead * kEntryRows * kEntryPiece;
      return next_piece + (n_blocks > kAhead ? kAhead - n_blocks : 0) * kEntryRows * kEntryPiece;
    };
    for (int64_t p = piece; p < piece + n; ++p) {
      const uint8_t* codes = a.codes + entry_offset(a.n_rows, p, first);
      const int8_t* tables = x.bytes + p * kEntryPiece * kEntrySumBytes;
      int64_t b = 0;
      for (; b + 2 <= n_whole; b += 2)
        look_up_piece<2>(codes + b * kEntryRows * kEntryPiece, kEntryRows, ahead(b), tables,
                         of_group + b);
      for (; b < n_blocks; ++b)
        look_up_piece<1>(codes + b * kEntryRows * kEntryPiece,
                         b < n_whole ? kEntryRows : last_width, ahead(b), tables, of_group + b);
    }
    for (int64_t b = 0; b < n_blocks; ++b)
      add_group(of_group[b], n * kEntryPiece, x.scale[piece / kPieces], sums[b]);
  }
  const __m512i firsts = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  for (int64_t b = 0; b < n_blocks; ++b) {
    for (int i = 0; i < 4; ++i) {
      const __m512 even = _mm512_load_ps(sums[b] + 16 * (i / 2)),
                   odd = _mm512_load_ps(sums[b] + 32 + 16 * (i / 2));
      const __m512i at = _mm512_add_epi32(firsts, _mm512_set1_epi32(8 * (i % 2)));
      const int64_t of_call = row + b * kEntryRows + 16 * i;
      finish(a, of_call, smaller(16, a.count - of_call), token,
             _mm512_permutex2var_ps(even, at, odd));
    }
  }
}

/// The elements of a block's codes of a group, as a panel of 8-bit codes: [4 panels, codes, quads
/// of elements, 16 rows, 4]. Lane d of panel i is row 16 (d / 4) + 4 i + d % 4 of the block.
void expand(const EntryDotArgs& a, int64_t block, int64_t first_code, int64_t n_codes,
            uint8_t* out) {
  const int64_t quads = entry_bytes(a.book->dim) / 4, width = entry_block_rows(a.n_rows, block);
  const int64_t panel_bytes = kEntryGroup * quads * kPanelBytes;
  for (int64_t q = 0; q < quads; ++q) {
    const uint8_t* planes = a.book->planes + 4 * q * kEntryBookSize;
    __m512i p[4][4];
#pragma GCC unroll 4
    for (int e = 0; e < 4; ++e)
      load_table(planes + e * kEntryBookSize, p[e][0], p[e][1], p[e][2], p[e][3]);
    for (int64_t j = 0; j < n_codes; ++j) {
      const int64_t code = first_code + j;
      const uint8_t* at =
          a.codes + entry_offset(a.n_rows, code / kEntryPiece, block) + code % kEntryPiece * width;
      const __m512i c = _mm512_maskz_loadu_epi8(first_bytes(width), at);
      const __mmask64 upper = _mm512_movepi8_mask(c);
      __m512i v[4];
#pragma GCC unroll 4
      for (int e = 0; e < 4; ++e) v[e] = look_up(c, upper, p[e][0], p[e][1], p[e][2], p[e][3]);
      const __m512i a0 = _mm512_unpacklo_epi8(v[0], v[1]), a1 = _mm512_unpackhi_epi8(v[0], v[1]);
      const __m512i b0 = _mm512_unpacklo_epi8(v[2], v[3]), b1 = _mm512_unpackhi_epi8(v[2], v[3]);
      uint8_t* to = out + (j * quads + q) * kPanelBytes;
      _mm512_store_si512(to, _mm512_unpacklo_epi16(a0, b0));
      _mm512_store_si512(to + panel_bytes, _mm512_unpackhi_epi16(a0, b0));
      _mm512_store_si512(to + 2 * panel_bytes, _mm512_unpacklo_epi16(a1, b1));
      _mm512_store_si512(to + 3 * panel_bytes, _mm512_unpackhi_epi16(a1, b1));
    }
  }
}

/// Two panels of elements of group g against T tokens; sums [tokens, 64].
template <int T>
[[gnu::noinline]] void multiply(const EntryDotArgs& a, const uint8_t* panels, int64_t panel_bytes,
                                int64_t g, int64_t n_steps, int64_t token, float* sums) {
  const int64_t at = g * kEntryGroup * entry_bytes(a.book->dim);
  __m512i products[2][T];
  const int8_t* x[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    x[t] = a.x[token + t]->bytes + at;
    const auto start = static_cast<int32_t>(-128 * a.x[token + t]->sum[g]);
    products[0][t] = products[1][t] = _mm512_set1_epi32(start);
  }
  for (int64_t step = 0; step < n_steps; ++step) {
    __m512i c0 = _mm512_load_si512(panels + step * kPanelBytes);
    __m512i c1 = _mm512_load_si512(panels + panel_bytes + step * kPanelBytes);
    keep(c0);
    keep(c1);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const __m512i xs = _mm512_set1_epi32(*reinterpret_cast<const Int32*>(x[t] + 4 * step));
      add_products(products[0][t], c0, xs);
      add_products(products[1][t], c1, xs);
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < 2; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      float* const sum = sums + kEntryRows * t + 16 * r;
      const __m512 scale = _mm512_set1_ps(a.x[token + t]->scale[g]);
      _mm512_store_ps(
          sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[r][t]), scale, _mm512_load_ps(sum)));
    }
  }
}

/// One block from `row` of the call on against all tokens.
void multiply_block(const EntryDotArgs& a, int64_t row) {
  float* const sums = a.scratch;
  auto* const panels = reinterpret_cast<uint8_t*>(sums + a.n_tokens * kEntryRows);
  for (int64_t i = 0; i < a.n_tokens * kEntryRows; i += 16)
    _mm512_store_ps(sums + i, _mm512_setzero_ps());
  const int64_t quads = entry_bytes(a.book->dim) / 4;
  const int64_t panel_bytes = kEntryGroup * quads * kPanelBytes;
  for (int64_t g = 0; g * kEntryGroup < a.n_codes; ++g) {
    const int64_t n_codes = smaller(kEntryGroup, a.n_codes - g * kEntryGroup);
    expand(a, a.first + row, g * kEntryGroup, n_codes, panels);
    int64_t token = 0;
    const auto tile = [&]<int T>() {
      for (; token + T <= a.n_tokens; token += T) {
        for (int64_t i = 0; i < kPanels; i += 2)
          multiply<T>(a, panels + i * panel_bytes, panel_bytes, g, n_codes * quads, token,
                      sums + kEntryRows * token + 16 * i);
      }
    };
    tile.operator()<8>();
    tile.operator()<4>();
    tile.operator()<1>();
  }
  // Rows 16 i + 4 k + m are lanes 4 i + m of panel k.
  for (int64_t t = 0; t < a.n_tokens; ++t) {
    for (int i = 0; i < 4; ++i) {
      alignas(64) float of_rows[16];
      for (int k = 0; k < 4; ++k)
        __builtin_memcpy(of_rows + 4 * k, sums + kEntryRows * t + 16 * k + 4 * i, 16);
      const int64_t of_call = row + 16 * i;
      finish(a, of_call, smaller(16, a.count - of_call), t, _mm512_load_ps(of_rows));
    }
  }
}

}  // namespace

void entry_dot_avx512(const EntryDotArgs& a) {
  if (a.n_tokens > kEntrySumTokens) {
    for (int64_t row = 0; row < a.count; row += kEntryRows) multiply_block(a, row);
    return;
  }
  for (int64_t token = 0; token < a.n_tokens; ++token) {
    for (int64_t row = 0; row < a.count; row += kBlocks * kEntryRows) {
      const int64_t n =
          (smaller(kBlocks * kEntryRows, a.count - row) + kEntryRows - 1) / kEntryRows;
      look_up_blocks(a, row, n, token);
    }
  }
}

}  // namespace deltacome::cpu
