// SPDX-License-Identifier: Apache-2.0
// Decoding of scalar codes: a part of kernels_impl.h, which includes it, under its rules.
#pragma once

namespace deltacome::cpu {
namespace {

/// Codes of the next 16 elements; bits above the code are 0, or anything if kLoose.
template <int kBits, bool kLoose>
DELTACOME_INLINE U32x16 codes16(const uint8_t* low, const uint8_t* high) {
  constexpr U32x16 kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  if constexpr (kBits == 8) return __builtin_convertvector(load_as<U8x16>(low), U32x16);
  if constexpr (kBits == 4) {
    const U32x16 in_word = (kLane & 7u) * 4u;
    const auto first = load_as<uint32_t>(low);
    const auto second = load_as<uint32_t>(low + 4);
    const U32x16 words = {first,  first,  first,  first,  first,  first,  first,  first,
                          second, second, second, second, second, second, second, second};
    const U32x16 shifted = words >> in_word;
    return kLoose ? shifted : shifted & 15u;
  }
  if constexpr (kBits == 3)
    return codes16<2, false>(low, nullptr) | (codes16<1, false>(high, nullptr) << 2);
  if constexpr (kBits == 2) {
    const U32x16 shifted = (U32x16{} + load_as<uint32_t>(low)) >> (kLane * 2u);
    return kLoose ? shifted : shifted & 3u;
  }
  const U32x16 shifted = (U32x16{} + uint32_t{load_as<uint16_t>(low)}) >> kLane;
  return kLoose ? shifted : shifted & 1u;
}

/// code - center.
template <int kBits>
DELTACOME_INLINE F16x values16(const uint8_t* low, const uint8_t* high) {
  constexpr float kCenter = 0.5f * static_cast<float>((1 << kBits) - 1);
#if DELTACOME_LANES == 16
  if constexpr (kBits <= 4) {  // a look-up in one register, which ignores all but 4 bits
    F16x table;
    for (int i = 0; i < 16; ++i) table[i] = static_cast<float>(i & ((1 << kBits) - 1)) - kCenter;
    return reinterpret_cast<F16x>(_mm512_maskz_permutexvar_ps(
        0xffff, reinterpret_cast<__m512i>(codes16<kBits, true>(low, high)),
        reinterpret_cast<__m512>(table)));
  }
#endif
  using I32x16 [[gnu::vector_size(64)]] = int32_t;
  const U32x16 codes = codes16<kBits, false>(low, high);
  return __builtin_convertvector(reinterpret_cast<I32x16>(codes), F16x) - kCenter;
}

template <int kBits>
void decode_bits(const DecodeArgs& a) {
  constexpr int kLowBytes = 2 * (kBits == 3 ? 2 : kBits);  // of 16 codes
  constexpr int kHighBytes = kBits == 3 ? 2 : 0;
  const uint8_t* low = a.low;
  const uint8_t* high = a.high;
  int64_t i = 0;
  for (; i + 16 <= a.n; i += 16, low += kLowBytes, high += kHighBytes) {
    const F16x values = values16<kBits>(low, high);
    const F16x scaled =
        a.scales == nullptr ? values * a.scale : values * load_as<F16x>(a.scales + i);
    __builtin_memcpy(a.out + i, &scaled, sizeof scaled);
  }
  const int64_t n = a.n - i;
  if (n == 0) return;
  uint8_t low_part[kLowBytes] = {};
  uint8_t high_part[kHighBytes + 1] = {};
  __builtin_memcpy(low_part, low, static_cast<size_t>((n * (kLowBytes / 2) + 7) / 8));
  if (kHighBytes > 0) __builtin_memcpy(high_part, high, static_cast<size_t>((n + 7) / 8));
  const F16x values = values16<kBits>(low_part, high_part);
  for (int64_t j = 0; j < n; ++j)
    a.out[i + j] = values[j] * (a.scales == nullptr ? a.scale : a.scales[i + j]);
}

void decode(const DecodeArgs& a) {
  switch (a.bits) {
    case 1:
      return decode_bits<1>(a);
    case 2:
      return decode_bits<2>(a);
    case 3:
      return decode_bits<3>(a);
    case 4:
      return decode_bits<4>(a);
    default:
      return decode_bits<8>(a);
  }
}

}  // namespace
}  // namespace deltacome::cpu
