// SPDX-License-Identifier: Apache-2.0
// The text of all kernels, included once by each kernels_<isa>.cc with DELTACOME_KERNELS,
// DELTACOME_KERNELS_NAME and DELTACOME_LANES defined. Everything is local to the including file and
// nothing of the standard library is used but fixed-width integers: an inline function compiled
// here with AVX-512 could otherwise be the copy that the linker keeps for the whole program.
#pragma once

#include <cstdint>
#include <utility>

#include "backend/cpu/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// Vectors wider than a register are passed between inlined functions only: no ABI is involved.
#pragma GCC diagnostic ignored "-Wpsabi"

#define DELTACOME_INLINE [[gnu::always_inline]] inline

namespace deltacome::cpu {
namespace {

constexpr int kLanes = DELTACOME_LANES;
// Rows of a register tile: 4 accumulators a row, plus one vector a row and one weight.
constexpr int kTileRows = kLanes == 16 ? 6 : kLanes == 8 ? 3 : 2;

using F [[gnu::vector_size(4 * kLanes)]] = float;
using U32 [[gnu::vector_size(4 * kLanes)]] = uint32_t;
using I32 [[gnu::vector_size(4 * kLanes)]] = int32_t;
using U16 [[gnu::vector_size(2 * kLanes)]] = uint16_t;
using F4 [[gnu::vector_size(16)]] = float;
// Codes are unpacked 16 at a time whatever the width of a register, so that a group starts on a
// byte at every number of bits.
using F16x [[gnu::vector_size(64)]] = float;
using U32x16 [[gnu::vector_size(64)]] = uint32_t;
using U8x16 [[gnu::vector_size(16)]] = uint8_t;

struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

DELTACOME_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
DELTACOME_INLINE F splat(float value) {
  return F{} + value;
}
template <class T>
DELTACOME_INLINE T load_as(const void* p) {
  T v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
DELTACOME_INLINE void store(float* p, F v) {
  __builtin_memcpy(p, &v, sizeof v);
}
/// a where mask is all ones, b where it is 0.
DELTACOME_INLINE F select(I32 mask, F a, F b) {
  return reinterpret_cast<F>((reinterpret_cast<I32>(a) & mask) |
                             (reinterpret_cast<I32>(b) & ~mask));
}

DELTACOME_INLINE F load(const float* p) {
  return load_as<F>(p);
}
// GCC 12 widens 16-bit lanes by halves, so that step is written as an intrinsic where there is one.
DELTACOME_INLINE F load(const Bf16* p) {
#if DELTACOME_LANES == 16
  const auto* at = reinterpret_cast<const __m256i*>(p);
  const U32 wide =
      reinterpret_cast<U32>(_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(at)));
#elif DELTACOME_LANES == 8
  const auto* at = reinterpret_cast<const __m128i*>(p);
  const U32 wide = reinterpret_cast<U32>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at)));
#else
  const U32 wide = __builtin_convertvector(load_as<U16>(p), U32);
#endif
  return reinterpret_cast<F>(wide << 16);
}
DELTACOME_INLINE F load(const Half* p) {
#if DELTACOME_LANES == 16
  return reinterpret_cast<F>(
      _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif DELTACOME_LANES == 8
  return reinterpret_cast<F>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  const U32 h = __builtin_convertvector(load_as<U16>(p), U32);
  // Exponent and fraction in place, rebiased by an exact product (which also takes subnormals).
  const F magnitude = reinterpret_cast<F>((h & 0x7fffu) << 13) * 0x1p112f;
  const U32 special = reinterpret_cast<U32>((h & 0x7c00u) == 0x7c00u) & 0x7f800000u;
  return reinterpret_cast<F>(reinterpret_cast<U32>(magnitude) | special | ((h & 0x8000u) << 16));
#endif
}
/// The first n < kLanes elements, then zeros.
template <class T>
DELTACOME_INLINE F load_part(const T* p, int64_t n) {
  T padded[kLanes] = {};
  __builtin_memcpy(padded, p, static_cast<size_t>(n) * sizeof(T));
  return load(padded);
}
DELTACOME_INLINE void store_part(float* p, F v, int64_t n) {
  __builtin_memcpy(p, &v, static_cast<size_t>(n) * sizeof(float));
}

#define DELTACOME_SHUFFLE __builtin_shufflevector
/// Sums over the lanes of four vectors, each in the same order.
DELTACOME_INLINE F4 reduce4(F a, F b, F c, F d) {
#if DELTACOME_LANES == 16
#define DELTACOME_LOW(x, y) \
  DELTACOME_SHUFFLE(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define DELTACOME_HIGH(x, y) \
  DELTACOME_SHUFFLE(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define DELTACOME_LOW2(x, y) \
  DELTACOME_SHUFFLE(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define DELTACOME_HIGH2(x, y) \
  DELTACOME_SHUFFLE(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#elif DELTACOME_LANES == 8
#define DELTACOME_LOW(x, y) DELTACOME_SHUFFLE(x, y, 0, 8, 1, 9, 4, 12, 5, 13)
#define DELTACOME_HIGH(x, y) DELTACOME_SHUFFLE(x, y, 2, 10, 3, 11, 6, 14, 7, 15)
#define DELTACOME_LOW2(x, y) DELTACOME_SHUFFLE(x, y, 0, 1, 8, 9, 4, 5, 12, 13)
#define DELTACOME_HIGH2(x, y) DELTACOME_SHUFFLE(x, y, 2, 3, 10, 11, 6, 7, 14, 15)
#else
#define DELTACOME_LOW(x, y) DELTACOME_SHUFFLE(x, y, 0, 4, 1, 5)
#define DELTACOME_HIGH(x, y) DELTACOME_SHUFFLE(x, y, 2, 6, 3, 7)
#define DELTACOME_LOW2(x, y) DELTACOME_SHUFFLE(x, y, 0, 1, 4, 5)
#define DELTACOME_HIGH2(x, y) DELTACOME_SHUFFLE(x, y, 2, 3, 6, 7)
#endif
  const F ab = DELTACOME_LOW(a, b) + DELTACOME_HIGH(a, b);
  const F cd = DELTACOME_LOW(c, d) + DELTACOME_HIGH(c, d);
  const F abcd = DELTACOME_LOW2(ab, cd) + DELTACOME_HIGH2(ab, cd);
#if DELTACOME_LANES == 16
  const auto half = DELTACOME_SHUFFLE(abcd, abcd, 0, 1, 2, 3, 4, 5, 6, 7) +
                    DELTACOME_SHUFFLE(abcd, abcd, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  const auto half = abcd;
#endif
#if DELTACOME_LANES >= 8
  return DELTACOME_SHUFFLE(half, half, 0, 1, 2, 3) + DELTACOME_SHUFFLE(half, half, 4, 5, 6, 7);
#else
  return half;
#endif
}
DELTACOME_INLINE float reduce(F v) {
  return reduce4(v, v, v, v)[0];
}

/// exp(x) within 2 ulp; 0 below -87, about 2^127 above 88. Ref: Cephes expf.
DELTACOME_INLINE F exp_lanes(F x) {
  const I32 tiny = reinterpret_cast<I32>(x < splat(-87.0f));
  x = select(tiny, splat(-87.0f), x);
  x = select(reinterpret_cast<I32>(x > splat(88.0f)), splat(88.0f), x);
  const F magic = splat(0x1.8p23f);  // adding it rounds to an integer, kept in the low bits
  const F shifted = x * 1.44269504088896341f + magic;
  const F n = shifted - magic;
  F r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  F p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const U32 power = (reinterpret_cast<U32>(shifted) - reinterpret_cast<U32>(magic) + 127u) << 23;
  return select(tiny, F{}, p * reinterpret_cast<F>(power));
}

/// R rows of x against 4 G rows of w. Each result has one accumulator of kLanes partial sums, so
/// that neither R nor G nor the place in the tile changes it.
template <int R, int G, class W>
DELTACOME_INLINE void dot_tile(const DotArgs& a, int64_t row, int64_t out) {
  const int64_t n_valid = smaller(4 * G, a.n_out - out);
  const W* w[4 * G];
  const float* x[R];
  F sum[R][4 * G] = {};
  for (int c = 0; c < 4 * G; ++c)  // rows past the end repeat the last one and are not stored
    w[c] = static_cast<const W*>(a.w) + (out + smaller(c, n_valid - 1)) * a.w_stride;
  for (int r = 0; r < R; ++r) x[r] = a.x[row + r] + a.x_offset;
  int64_t i = 0;
  for (; i + kLanes <= a.k; i += kLanes) {
    F xs[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) xs[r] = load(x[r] + i);
#pragma GCC unroll 8
    for (int c = 0; c < 4 * G; ++c) {
      const F ws = load(w[c] + i);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sum[r][c] += xs[r] * ws;
    }
  }
  if (i < a.k) {
#pragma GCC unroll 8
    for (int c = 0; c < 4 * G; ++c) {
      const F ws = load_part(w[c] + i, a.k - i);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sum[r][c] += load_part(x[r] + i, a.k - i) * ws;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float* y = a.y[row + r] + a.y_offset + out;
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
      const F4 sums =
          reduce4(sum[r][4 * g], sum[r][4 * g + 1], sum[r][4 * g + 2], sum[r][4 * g + 3]);
      const int64_t n = smaller(4, n_valid - 4 * g);
      for (int64_t c = 0; c < n; ++c) y[4 * g + c] = a.add ? y[4 * g + c] + sums[c] : sums[c];
    }
  }
}

template <int R, int G, class W>
void dot_rows(const DotArgs& a, int64_t row) {
  for (int64_t out = 0; out < a.n_out; out += 4 * G) dot_tile<R, G, W>(a, row, out);
}

template <class W>
void dot_typed(const DotArgs& a) {
  int64_t row = 0;
  for (; row + kTileRows <= a.n_rows; row += kTileRows) dot_rows<kTileRows, 1, W>(a, row);
  switch (a.n_rows - row) {
    case 1:
      return dot_rows < 1, kLanes == 16 ? 2 : 1, W > (a, row);
    case 2:
      return dot_rows < 2, kLanes == 16 ? 2 : 1, W > (a, row);
#if DELTACOME_LANES == 16
    case 3:
      return dot_rows<3, 1, W>(a, row);
    case 4:
      return dot_rows<4, 1, W>(a, row);
    case 5:
      return dot_rows<5, 1, W>(a, row);
#endif
    default:
      return;
  }
}

void dot(const DotArgs& a) {
  switch (a.type) {
    case WeightType::kF32:
      return dot_typed<float>(a);
    case WeightType::kBf16:
      return dot_typed<Bf16>(a);
    case WeightType::kF16:
      return dot_typed<Half>(a);
  }
}

/// R rows of z against C vectors of columns of u, n of the last vector (n = kLanes: all).
template <int R, int C, bool kPart, class W>
DELTACOME_INLINE void accumulate_tile(const AccumulateArgs& a, int64_t row, int64_t col,
                                      int64_t n) {
  const float* z[R];
  F sum[R][C] = {};
  for (int r = 0; r < R; ++r) z[r] = a.z[row + r] + a.z_offset;
  const W* u = static_cast<const W*>(a.u) + col;
  for (int64_t t = 0; t < a.n_terms; ++t, u += a.u_stride) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const F us = kPart ? load_part(u + c * kLanes, n) : load(u + c * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sum[r][c] += us * z[r][t];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float* y = a.y[row + r] + a.y_offset + col;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c, y += kLanes) {
      if (kPart) {
        store_part(y, load_part(y, n) + sum[r][c], n);
      } else {
        store(y, load(y) + sum[r][c]);
      }
    }
  }
}

template <int R, class W>
void accumulate_rows(const AccumulateArgs& a, int64_t row) {
  int64_t col = 0;
  for (; col + 4 * kLanes <= a.n_cols; col += 4 * kLanes)
    accumulate_tile<R, 4, false, W>(a, row, col, kLanes);
  for (; col + kLanes <= a.n_cols; col += kLanes)
    accumulate_tile<R, 1, false, W>(a, row, col, kLanes);
  if (col < a.n_cols) accumulate_tile<R, 1, true, W>(a, row, col, a.n_cols - col);
}

template <class W>
void accumulate_typed(const AccumulateArgs& a) {
  int64_t row = 0;
  for (; row + kTileRows <= a.n_rows; row += kTileRows) accumulate_rows<kTileRows, W>(a, row);
#if DELTACOME_LANES == 16
  switch (a.n_rows - row) {  // the query heads of a kv head are 2 to 5 in many models
    case 5:
      return accumulate_rows<5, W>(a, row);
    case 4:
      return accumulate_rows<4, W>(a, row);
    case 3:
      return accumulate_rows<3, W>(a, row);
    case 2:
      return accumulate_rows<2, W>(a, row);
    default:
      break;
  }
#endif
  for (; row < a.n_rows; ++row) accumulate_rows<1, W>(a, row);
}

void accumulate(const AccumulateArgs& a) {
  switch (a.type) {
    case WeightType::kF32:
      return accumulate_typed<float>(a);
    case WeightType::kBf16:
      return accumulate_typed<Bf16>(a);
    case WeightType::kF16:
      return accumulate_typed<Half>(a);
  }
}

template <class T>
void convert_typed(const T* in, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load(in + i));
  if (i < n) store_part(out + i, load_part(in + i, n - i), n - i);
}

void convert(WeightType type, const void* in, int64_t n, float* out) {
  if (type == WeightType::kBf16) return convert_typed(static_cast<const Bf16*>(in), n, out);
  convert_typed(static_cast<const Half*>(in), n, out);
}

float max(const float* x, int64_t n) {
  float largest = x[0];
  int64_t i = 0;
  if (n >= kLanes) {
    F lanes = load(x);
    for (i = kLanes; i + kLanes <= n; i += kLanes) {
      const F v = load(x + i);
      lanes = select(reinterpret_cast<I32>(v > lanes), v, lanes);
    }
    for (int j = 0; j < kLanes; ++j) largest = lanes[j] > largest ? lanes[j] : largest;
  }
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

/// Bits of the largest |x[i] * gains[i]|; gains null = 1. By bits, because magnitudes order as
/// integers, infinities and then NaNs above all numbers.
DELTACOME_INLINE uint32_t largest_magnitude(const float* x, const float* gains, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float v = gains == nullptr ? x[i] : x[i] * gains[i];
    const uint32_t bits = load_as<uint32_t>(&v) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

float encode_int8(const float* x, int64_t n, int8_t* codes) {
  const uint32_t largest = largest_magnitude(x, nullptr, n);
  const float scale = load_as<float>(&largest) / 127.0f;
  const bool usable = largest < 0x7f800000u && scale > 1e-30f;
  const float by = usable ? 1.0f / scale : 0.0f;
  // 1.5 * 2^23 leaves the nearest integer in the lowest bits of the sum.
  for (int64_t i = 0; i < n; ++i) {
    const float sum = (usable ? x[i] * by : 0.0f) + 12582912.0f;
    codes[i] = static_cast<int8_t>(load_as<uint32_t>(&sum) & 0xffu);
  }
  return scale;
}

void decode_int8(const int8_t* codes, int64_t n, float scale, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = scale * static_cast<float>(codes[i]);
}

float softmax(float* s, int64_t n, float scale) {
  const F shift = splat(max(s, n) * scale);
  F sum = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F e = exp_lanes(load(s + i) * scale - shift);
    store(s + i, e);
    sum += e;
  }
  if (i < n) {
    F e = exp_lanes(load_part(s + i, n - i) * scale - shift);
    store_part(s + i, e, n - i);
    e = load_part(s + i, n - i);  // the other lanes are 0 again
    sum += e;
  }
  return reduce(sum);
}

float sum_squares(const float* x, int64_t n) {
  F sum = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F v = load(x + i);
    sum += v * v;
  }
  if (i < n) {
    const F v = load_part(x + i, n - i);
    sum += v * v;
  }
  return reduce(sum);
}

void scale(const float* x, float by, const float* w, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(x + i) * by * load(w + i));
  if (i < n) store_part(y + i, load_part(x + i, n - i) * by * load_part(w + i, n - i), n - i);
}

void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F g = load(gate + i);
    store(out + i, g / (1.0f + exp_lanes(-g)) * load(up + i));
  }
  if (i < n) {
    const F g = load_part(gate + i, n - i);
    store_part(out + i, g / (1.0f + exp_lanes(-g)) * load_part(up + i, n - i), n - i);
  }
}

}  // namespace
}  // namespace deltacome::cpu

#include "backend/cpu/kernels_decode_impl.h"
#include "backend/cpu/kernels_packed_impl.h"
#include "backend/cpu/kernels_training_impl.h"
#include "backend/cpu/kernels_vector_impl.h"

namespace deltacome::cpu {

extern const Kernels DELTACOME_KERNELS;
const Kernels DELTACOME_KERNELS = {.name = DELTACOME_KERNELS_NAME,
                                   .convert_from_rows = kLanes >= 8 ? int64_t{1} << 62 : 7,
                                   .dot = dot,
                                   .accumulate = accumulate,
                                   .decode = decode,
                                   .rotate = rotate,
                                   .convert = convert,
                                   .encode_int8 = encode_int8,
                                   .decode_int8 = decode_int8,
                                   .softmax = softmax,
                                   .sum_squares = sum_squares,
                                   .scale = scale,
                                   .silu_mul = silu_mul,
                                   .max = max,
                                   .exp_sum = exp_sum,
                                   .sum_products = sum_products,
                                   .softmax_backward = softmax_backward,
                                   .rms_norm_backward = rms_norm_backward,
                                   .silu_mul_backward = silu_mul_backward,
                                   .compose = compose,
                                   .adam = adam,
                                   .packed = &kPackedKernels};

}  // namespace deltacome::cpu
