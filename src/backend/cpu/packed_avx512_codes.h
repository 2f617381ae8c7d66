// SPDX-License-Identifier: Apache-2.0
// How packed codes become bytes: whole blocks, and the columns of a row behind them. Local to the
// files that include it.
#pragma once

#include "backend/cpu/packed_avx512.h"

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
      keep(v[i]);
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

/// How the bytes of a run of n <= 128 columns of `bits` bits become columns in order: byte `index`
/// of the run, shifted right.
struct RunMap {
  __m512i index[2], shift[2];  // of columns [0, 64) and [64, 128); those behind n are any

  DELTACOME_INLINE void make(int bits, int64_t n) {
    alignas(64) uint8_t from[128] = {}, by[128] = {};
    const int64_t stride = packed_run_bytes(bits, n);
    for (int64_t field = 0, k = 0; k < n; ++field) {
      for (int64_t j = 0; j < stride && k < n; ++j, ++k) {
        from[k] = static_cast<uint8_t>(j);
        by[k] = static_cast<uint8_t>(8 * (k % 8) + bits * field);  // of the byte in its 8 bytes
      }
    }
    for (int i = 0; i < 2; ++i) {
      index[i] = load(from + 64 * i);
      shift[i] = load(by + 64 * i);
    }
  }
  template <int kMask>
  DELTACOME_INLINE __m512i codes(const uint8_t* p, int i) const {
    const __m512i placed = _mm512_permutexvar_epi8(index[i], load(p));
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

}  // namespace
}  // namespace deltacome::cpu
