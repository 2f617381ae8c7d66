// SPDX-License-Identifier: Apache-2.0
// Products of packed codes in loops that a compiler vectorizes: a part of kernels_impl.h, which
// includes it, under its rules. The same integers as packed_avx512.cc; groups are added one by one.
#pragma once

#include "backend/cpu/packed_kernels.h"

namespace deltacome::cpu {
namespace {

using U16x16 [[gnu::vector_size(32)]] = uint16_t;
using I32x8 [[gnu::vector_size(32)]] = int32_t;

/// out [n] |= the fields of a run of n columns of kBits, shifted.
template <int kBits>
DELTACOME_INLINE void unpack_run(const uint8_t* run, int64_t n, int shift, uint8_t* out) {
  const int64_t stride = packed_run_bytes(kBits, n);
  for (int field = 0; field < 8 / kBits; ++field, out += stride, n -= stride) {
    for (int64_t j = 0; j < smaller(stride, n); ++j) {
      const int code = (run[j] >> (kBits * field)) & ((1 << kBits) - 1);
      out[j] = static_cast<uint8_t>(out[j] | code << shift);
    }
  }
}

/// The same for a run of kBytes whole vectors, which overwrites its columns if kShift is 0.
template <int kBits, int kBytes, int kShift>
DELTACOME_INLINE void unpack_vectors(const uint8_t* run, uint8_t* out) {
  constexpr uint16_t kMask = ((1 << kBits) - 1) * 0x101;
  for (int j = 0; j < kBytes; j += 32) {
    const auto v = load_as<U16x16>(run + j);
#pragma GCC unroll 8
    for (int field = 0; field < 8 / kBits; ++field) {
      U16x16 codes = (v >> (kBits * field) & kMask) << kShift;
      uint8_t* to = out + field * kBytes + j;
      if constexpr (kShift != 0) codes |= load_as<U16x16>(to);
      __builtin_memcpy(to, &codes, sizeof codes);
    }
  }
}

template <int kBits>
void unpack(const PackedShape& shape, const uint8_t* row, uint8_t* codes) {
  constexpr int64_t kBlock = packed_block_cols(kBits);
  for (int64_t b = 0; b < shape.n_blocks; ++b, codes += kBlock) {
    if constexpr (kBits == 8) {
      __builtin_memcpy(codes, row, kBlock);
    } else if constexpr (kBits == 3) {
      unpack_vectors<2, 64, 0>(row, codes);
      unpack_vectors<2, 64, 0>(row + 64, codes + 256);
      unpack_vectors<1, 64, 2>(row + 128, codes);
    } else {
      unpack_vectors<kBits, 64, 0>(row, codes);
    }
    row += packed_run_bytes(kBits, kBlock);
  }
  for (int64_t left = shape.cols - shape.n_blocks * kBlock; left > 0; left -= kActivationGroup) {
    const int64_t n = smaller(kActivationGroup, left);
    __builtin_memset(codes, 0, kActivationGroup);
    unpack_run<kBits == 3 ? 2 : kBits>(row, n, 0, codes);
    if constexpr (kBits == 3) unpack_run<1>(row + packed_run_bytes(2, n), n, 2, codes);
    row += packed_run_bytes(kBits, n);
    codes += kActivationGroup;
  }
}

/// Sum of codes[i] * x[i]; any that a kernel takes fits 32 bits. n is a multiple of 64, for codes
/// of few bits of 128.
DELTACOME_INLINE int32_t sum_of_products(const uint8_t* codes, const int8_t* x, int64_t n,
                                         [[maybe_unused]] int bits) {
#if defined(__AVX2__)
  const auto bytes = [](const void* p) { return load_as<__m256i>(p); };
  __m256i sum = _mm256_setzero_si256();
  if (bits <= 4) {  // 8 products of at most 15 * 128 fit 16 bits
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t i = 0; i < n; i += kActivationGroup) {
      __m256i products = _mm256_maddubs_epi16(bytes(codes + i), bytes(x + i));
#pragma GCC unroll 3
      for (int64_t j = i + 32; j < i + kActivationGroup; j += 32)
        products = _mm256_add_epi16(products, _mm256_maddubs_epi16(bytes(codes + j), bytes(x + j)));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, ones));
    }
  } else {
    const auto half = [](const void* p) { return load_as<__m128i>(p); };
    for (int64_t i = 0; i < n; i += 16) {
      const __m256i products = _mm256_madd_epi16(_mm256_cvtepu8_epi16(half(codes + i)),
                                                 _mm256_cvtepi8_epi16(half(x + i)));
      sum = _mm256_add_epi32(sum, products);
    }
  }
  I32x8 lanes = reinterpret_cast<I32x8>(sum);
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

void packed_dot(const PackedDotArgs& a) {
  const PackedShape& shape = *a.shape;
  const float center = 0.5f * static_cast<float>((1 << shape.bits) - 1);
  auto* codes = reinterpret_cast<uint8_t*>(a.scratch);
  float* scales = a.scratch + shape.n_groups * kActivationGroup / 4;
  for (int64_t r = 0; r < a.n_rows; ++r) {
    const uint8_t* row = a.rows + r * shape.row_bytes;
    visit_packed_bits(shape.bits,
                      [&](auto bits) { unpack<decltype(bits)::value>(shape, row, codes); });
    const bool grouped = shape.scale == PackedScale::kGroup;
    if (grouped)
      convert_typed(reinterpret_cast<const Half*>(row + shape.code_bytes), shape.n_groups, scales);
    const float by = a.row_scale == nullptr ? a.scale : a.row_scale[r] * a.scale;
    for (int64_t t = 0; t < a.n_tokens; ++t) {
      const QuantizedRow& x = *a.x[t];
      float sum = 0, centers = grouped ? 0 : x.total;
      for (int64_t g = 0; g < shape.n_groups; ++g) {
        const int64_t at = g * kActivationGroup;
        const auto products = static_cast<float>(
            sum_of_products(codes + at, x.bytes + at, kActivationGroup, shape.bits));
        const float scale = grouped ? scales[g] : 1.0f;
        sum += products * (scale * x.scale[g]);
        if (grouped) centers += scale * x.sum[g];
      }
      float* y = a.y[t] + a.y_first + r;
      const float v = by * (sum - center * centers);
      *y = a.add ? *y + v : v;
    }
  }
}

/// A group of n elements, x times gains; returns its scale. Values that are not finite give NaN.
DELTACOME_INLINE float quantize_group(const float* x, const float* gains, int64_t n, int8_t* bytes,
                                      float* sum) {
  constexpr float kMagic = 0x1.8p23f;  // adding it rounds to the nearest integer
  const uint32_t most = largest_magnitude(x, gains, n);
  const auto largest = load_as<float>(&most);
  const bool finite = most < 0x7f800000u;
  const float scale = !finite            ? __builtin_nanf("")
                      : largest < 1e-30f ? 0.0f
                                         : largest / kActivationLevels;
  const float inverse = finite && scale > 0 ? 1 / scale : 0.0f;
  int32_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float v = gains == nullptr ? x[i] : x[i] * gains[i];
    const float shifted = (finite ? v : 0.0f) * inverse + kMagic;
    const auto q = static_cast<int32_t>(shifted - kMagic);
    bytes[i] = static_cast<int8_t>(q);
    total += q;
  }
  *sum = scale * static_cast<float>(total);
  return scale;
}

void quantize_codes_input(const QuantizeArgs& a) {
  for (int64_t g = 0; g * kActivationGroup < a.n; ++g) {
    const int64_t at = g * kActivationGroup;
    a.scale[g] = quantize_group(a.x + at, a.gains == nullptr ? nullptr : a.gains + at,
                                smaller(kActivationGroup, a.n - at), a.bytes + at, a.sum + g);
  }
}

/// Here elements stay in order: an entry is copied as a whole.
void quantize_entries_input(const EntryQuantizeArgs& a) {
  const int64_t block = int64_t{kEntryBlock} * a.dim;
  for (int64_t g = 0; g * block < a.n; ++g) {
    a.scale[g] = quantize_group(a.x + g * block, nullptr, smaller(block, a.n - g * block),
                                a.bytes + g * block, a.sum + g);
  }
}

static_assert(int64_t{kEntryBlock} * 16 * 255 * 127 < (int64_t{1} << 31));

template <int kDim>
void entry_dot_of(const EntryDotArgs& a) {
  uint8_t values[kEntryBlock * kDim];
  for (int64_t r = 0; r < a.n_rows; ++r) {
    const uint8_t* codes = a.codes + r * a.n_codes;
    for (int64_t b = 0; b * kEntryBlock < a.n_codes; ++b) {
      const int64_t first = b * kEntryBlock, n = smaller(kEntryBlock, a.n_codes - first);
      for (int64_t j = 0; j < n; ++j)
        __builtin_memcpy(values + j * kDim, a.entries + codes[first + j] * kDim, kDim);
      __builtin_memset(values + n * kDim, 0, static_cast<size_t>((kEntryBlock - n) * kDim));
      for (int64_t t = 0; t < a.n_tokens; ++t) {
        const QuantizedRow& x = *a.x[t];
        const auto sum = static_cast<float>(
            sum_of_products(values, x.bytes + first * kDim, kEntryBlock * kDim, 8));
        a.y[t][a.y_first + r] += a.row_scale[r] * 0.03125f * (sum * x.scale[b] - 128 * x.sum[b]);
      }
    }
  }
}

void entry_dot(const EntryDotArgs& a) {
  switch (a.dim) {
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
