// SPDX-License-Identifier: Apache-2.0
// Products of packed codes in loops that a compiler vectorizes: a part of kernels_impl.h, which
// includes it, under its rules. The same integers as packed_avx512.cc; groups are added one by one.
#pragma once

#include "backend/cpu/packed_kernels.h"

namespace deltacome::cpu {
namespace {

using U16x16 [[gnu::vector_size(32)]] = uint16_t;
using I32x8 [[gnu::vector_size(32)]] = int32_t;

/// Fields [0, kFields) of kBits of 64 bytes, shifted by kShift, each to 64 bytes of its own; with
/// a shift they are added to what is there.
template <int kBits, int kFields, int kShift>
DELTACOME_INLINE void unpack_fields(const uint8_t* vector, uint8_t* out) {
  constexpr uint16_t kMask = ((1 << kBits) - 1) * 0x101;
  for (int j = 0; j < 64; j += 32) {
    const auto v = load_as<U16x16>(vector + j);
#pragma GCC unroll 8
    for (int field = 0; field < kFields; ++field) {
      U16x16 codes = (v >> (kBits * field) & kMask) << kShift;
      uint8_t* to = out + field * 64 + j;
      if constexpr (kShift != 0) codes |= load_as<U16x16>(to);
      __builtin_memcpy(to, &codes, sizeof codes);
    }
  }
}

/// The codes of a unit as bytes, step by step.
template <int kBits>
DELTACOME_INLINE void unpack_unit(const uint8_t* unit, uint8_t* out) {
  if constexpr (kBits == 8) {
    __builtin_memcpy(out, unit, 64);
  } else if constexpr (kBits == 3) {
    unpack_fields<2, 4, 0>(unit, out);
    unpack_fields<2, 4, 0>(unit + 64, out + 256);
    unpack_fields<1, 8, 2>(unit + 128, out);
  } else {
    unpack_fields<kBits, 8 / kBits, 0>(unit, out);
  }
}

/// sums [16] = sums by fours of the products of `n` steps of codes with x, of which every step
/// reads the next kCols, over and over. Any that a kernel takes fit 32 bits.
template <int kBits, int kCols>
DELTACOME_INLINE void multiply_steps(const uint8_t* codes, const int8_t* x, int64_t n,
                                     int32_t* sums) {
#if defined(__AVX2__)
  const auto repeated = [](const int8_t* from) {
    if constexpr (kCols == 4) return _mm256_set1_epi32(load_as<int32_t>(from));
    return _mm256_broadcastsi128_si256(load_as<__m128i>(from));
  };
  __m256i total[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  if constexpr (kBits <= 4) {  // 8 sums of two products of at most 15 * 127 fit 16 bits
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t first = 0; first < n; first += 8) {
      __m256i pairs[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
      for (int64_t i = first; i < smaller(first + 8, n); ++i) {
        const __m256i xs = repeated(x + i * kCols);
        for (int h = 0; h < 2; ++h)
          pairs[h] = _mm256_add_epi16(
              pairs[h], _mm256_maddubs_epi16(load_as<__m256i>(codes + 64 * i + 32 * h), xs));
      }
      for (int h = 0; h < 2; ++h)
        total[h] = _mm256_add_epi32(total[h], _mm256_madd_epi16(pairs[h], ones));
    }
    __builtin_memcpy(sums, total, sizeof total);
  } else {
    __m256i pairs[4] = {total[0], total[0], total[0], total[0]};  // of 4 rows or quads each
    for (int64_t i = 0; i < n; ++i) {
      const __m256i xs = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(repeated(x + i * kCols)));
      for (int q = 0; q < 4; ++q) {
        const __m256i c = _mm256_cvtepu8_epi16(load_as<__m128i>(codes + 64 * i + 16 * q));
        pairs[q] = _mm256_add_epi32(pairs[q], _mm256_madd_epi16(c, xs));
      }
    }
    for (int q = 0; q < 4; ++q) {
      const auto lanes = load_as<I32x8>(&pairs[q]);
      for (int i = 0; i < 4; ++i) sums[4 * q + i] = lanes[2 * i] + lanes[2 * i + 1];
    }
  }
#else
  for (int i = 0; i < 16; ++i) sums[i] = 0;
  for (int64_t step = 0; step < n; ++step) {
    for (int i = 0; i < 64; ++i)
      sums[i / 4] += static_cast<int16_t>(codes[64 * step + i]) *
                     static_cast<int16_t>(x[step * kCols + i % kCols]);
  }
#endif
}

/// `count` rows of a panel, from `row` of the call on.
template <int kBits, int64_t kRows>
void dot_panel(const PackedDotArgs& a, int64_t row, int64_t count) {
  const PackedShape& shape = *a.shape;
  constexpr int64_t kCols = kPanelBytes / kRows, kSteps = unit_steps(kBits);
  constexpr int64_t kUnits = group_units(kBits, kRows, kActivationGroup);
  constexpr int64_t kTokens = 8;  // that are summed at a time
  const bool grouped = shape.scale == PackedScale::kGroup;
  const uint8_t* panel = a.codes + panel_offset(shape, a.n_rows, a.first + row);
  const uint8_t* stored = a.codes + scale_offset(shape, a.n_rows, a.first + row);
  for (int64_t token = 0; token < a.n_tokens; token += kTokens) {
    const int64_t n_tokens = smaller(kTokens, a.n_tokens - token);
    float sums[kTokens][16] = {}, centers[kTokens][16] = {};
    for (int64_t g = 0; g < shape.n_groups; ++g) {
      const int64_t left = shape.cols - g * kActivationGroup;
      const int64_t n_units = left < kActivationGroup ? group_units(kBits, kRows, left) : kUnits;
      alignas(64) uint8_t codes[64 * kUnits * kSteps];
      for (int64_t u = 0; u < n_units; ++u)
        unpack_unit<kBits>(panel + (g * kUnits + u) * unit_bytes(kBits), codes + 64 * u * kSteps);
      float scales[16], of_rows[kRows];
      for (float& scale : of_rows) scale = 1;
      if (grouped)
        convert_typed(reinterpret_cast<const Half*>(stored + 2 * kRows * g), kRows, of_rows);
      for (int64_t i = 0; i < 16; ++i) scales[i] = of_rows[i * kRows / 16];
      for (int64_t t = 0; t < n_tokens; ++t) {
        const QuantizedRow& x = *a.x[token + t];
        alignas(32) int32_t products[16];
        multiply_steps<kBits, kCols>(codes, x.bytes + g * kActivationGroup, n_units * kSteps,
                                     products);
        for (int i = 0; i < 16; ++i) {
          sums[t][i] += static_cast<float>(products[i]) * (scales[i] * x.scale[g]);
          centers[t][i] += scales[i] * x.sum[g];
        }
      }
    }
    constexpr int64_t kOfRow = 16 / kRows;  // lanes
    for (int64_t t = 0; t < n_tokens; ++t) {
      for (int64_t r = 0; r < count; ++r) {
        float sum = 0;
        for (int64_t i = r * kOfRow; i < (r + 1) * kOfRow; ++i) sum += sums[t][i];
        const float around = grouped ? centers[t][r * kOfRow] : a.x[token + t]->total;
        const float by = a.row_scale == nullptr ? a.scale : a.row_scale[row + r] * a.scale;
        float* y = a.y[token + t] + a.y_first + row + r;
        const float v = by * (sum - shape.center * around);
        *y = a.add ? *y + v : v;
      }
    }
  }
}

void packed_dot(const PackedDotArgs& a) {
  const int64_t whole = a.n_rows / kPanelRows * kPanelRows - a.first;  // rows in panels of 16
  visit_packed_bits(a.shape->bits, [&](auto bits) {
    constexpr int kBits = decltype(bits)::value;
    for (int64_t row = 0; row < a.count;) {
      const int64_t left = a.count - row;
      if (row < whole) {
        dot_panel<kBits, kPanelRows>(a, row, smaller(kPanelRows, left));
        row += kPanelRows;
      } else {
        dot_panel<kBits, kNarrowRows>(a, row, smaller(kNarrowRows, left));
        row += kNarrowRows;
      }
    }
  });
}

/// Sum of codes[i] * x[i]; any that a kernel takes fits 32 bits. n is a multiple of 64.
DELTACOME_INLINE int32_t sum_of_products(const uint8_t* codes, const int8_t* x, int64_t n) {
#if defined(__AVX2__)
  __m256i sum = _mm256_setzero_si256();
  const auto half = [](const void* p) { return load_as<__m128i>(p); };
  for (int64_t i = 0; i < n; i += 16) {
    const __m256i products =
        _mm256_madd_epi16(_mm256_cvtepu8_epi16(half(codes + i)), _mm256_cvtepi8_epi16(half(x + i)));
    sum = _mm256_add_epi32(sum, products);
  }
  const auto lanes = load_as<I32x8>(&sum);
  int32_t total = 0;
  for (int i = 0; i < 8; ++i) total += lanes[i];
  return total;
#else
  int32_t sum = 0;
  for (int64_t i = 0; i < n; ++i)
    sum += static_cast<int16_t>(codes[i]) * static_cast<int16_t>(x[i]);
  return sum;
#endif
}

/// A group of n elements, x times gains, in -levels to levels, with the sum of the integers;
/// returns its scale. Values that are not finite give NaN.
DELTACOME_INLINE float quantize_group(const float* x, const float* gains, int64_t n, float levels,
                                      int8_t* bytes, float* sum) {
  constexpr float kMagic = 0x1.8p23f;  // adding it rounds to the nearest integer
  const uint32_t most = largest_magnitude(x, gains, n);
  const auto largest = load_as<float>(&most);
  const bool finite = most < 0x7f800000u;
  const float scale = !finite ? __builtin_nanf("") : largest < 1e-30f ? 0.0f : largest / levels;
  const float inverse = finite && scale > 0 ? 1 / scale : 0.0f;
  int32_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float v = gains == nullptr ? x[i] : x[i] * gains[i];
    const float shifted = (finite ? v : 0.0f) * inverse + kMagic;
    const auto q = static_cast<int32_t>(shifted - kMagic);
    bytes[i] = static_cast<int8_t>(q);
    total += q;
  }
  *sum = static_cast<float>(total);
  return scale;
}

void quantize_codes_input(const QuantizeArgs& a) {
  for (int64_t g = 0; g * kActivationGroup < a.n; ++g) {
    const int64_t at = g * kActivationGroup;
    a.scale[g] = quantize_group(a.x + at, a.gains == nullptr ? nullptr : a.gains + at,
                                smaller(kActivationGroup, a.n - at), kActivationLevels,
                                a.bytes + at, a.sum + g);
    a.sum[g] *= a.scale[g];
  }
}

/// Elements, never sums.
void quantize_entries_input(const EntryQuantizeArgs& a) {
  const int64_t dim = a.book->dim, group = kEntryGroup * dim, padded = entry_bytes(a.book->dim);
  int8_t elements[kEntryGroup * 16];
  for (int64_t g = 0; g * group < a.n; ++g) {
    __builtin_memset(elements, 0, sizeof elements);
    a.scale[g] = quantize_group(a.x + g * group, nullptr, smaller(group, a.n - g * group),
                                a.book->levels, elements, a.sum + g);
    const int64_t n = smaller(kEntryGroup, (a.n - g * group + dim - 1) / dim);
    for (int64_t j = 0; j < n; ++j) {
      int8_t* to = a.bytes + (g * kEntryGroup + j) * padded;
      __builtin_memset(to, 0, static_cast<size_t>(padded));
      __builtin_memcpy(to, elements + j * dim, static_cast<size_t>(dim));
    }
  }
}

static_assert(kEntryGroup * 16 * 255 * 127 < (int64_t{1} << 31));

template <int kDim>
void entry_dot_of(const EntryDotArgs& a) {
  constexpr int64_t kPadded = entry_bytes(kDim);
  uint8_t values[kEntryGroup * kPadded] = {};
  for (int64_t r = 0; r < a.count; ++r) {
    const int64_t block = (a.first + r) / kEntryRows * kEntryRows;
    const int64_t width = entry_block_rows(a.n_rows, block);
    for (int64_t t = 0; t < a.n_tokens; ++t) a.scratch[t] = 0;
    for (int64_t g = 0; g * kEntryGroup < a.n_codes; ++g) {
      const int64_t first = g * kEntryGroup, n = smaller(kEntryGroup, a.n_codes - first);
      for (int64_t j = 0; j < n; ++j) {
        const int64_t code = first + j;
        const uint8_t c = a.codes[entry_offset(a.n_rows, code / kEntryPiece, block) +
                                  code % kEntryPiece * width + (a.first + r - block)];
        __builtin_memcpy(values + j * kPadded, a.book->entries + c * kDim, kDim);
      }
      __builtin_memset(values + n * kPadded, 0, static_cast<size_t>((kEntryGroup - n) * kPadded));
      for (int64_t t = 0; t < a.n_tokens; ++t) {
        const QuantizedRow& x = *a.x[t];
        const int32_t sum =
            sum_of_products(values, x.bytes + first * kPadded, kEntryGroup * kPadded) -
            128 * static_cast<int32_t>(x.sum[g]);
        a.scratch[t] += static_cast<float>(sum) * x.scale[g];
      }
    }
    for (int64_t t = 0; t < a.n_tokens; ++t)
      a.y[t][a.y_first + r] += a.row_scale[r] * 0.03125f * a.scratch[t];
  }
}

void entry_dot(const EntryDotArgs& a) {
  switch (a.book->dim) {
    case 4:
      return entry_dot_of<4>(a);
    case 6:
      return entry_dot_of<6>(a);
    case 8:
      return entry_dot_of<8>(a);
    case 12:
      return entry_dot_of<12>(a);
    case 16:
      return entry_dot_of<16>(a);
    default:
      return;
  }
}

const PackedKernels kPackedKernels = {.quantize = quantize_codes_input,
                                      .quantize_entries = quantize_entries_input,
                                      .dot = packed_dot,
                                      .entry_dot = entry_dot};

}  // namespace
}  // namespace deltacome::cpu
