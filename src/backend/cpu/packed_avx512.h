// SPDX-License-Identifier: Apache-2.0
// What the files of packed codes for AVX-512 with VNNI and VBMI share. Local to each of them, and
// nothing of the standard library: see kernels_impl.h.
#pragma once

#include <immintrin.h>

#include "backend/cpu/packed_kernels.h"

#define DELTACOME_INLINE [[gnu::always_inline]] inline

namespace deltacome::cpu {

// Defined in files of their own; together they are kVnniKernels.
void quantize_avx512(const QuantizeArgs& a);
void quantize_entries_avx512(const EntryQuantizeArgs& a);
void entry_dot_avx512(const EntryDotArgs& a);

namespace {

constexpr int64_t kGroup = kActivationGroup;

DELTACOME_INLINE __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}
/// Keeps a vector that several instructions read in a register: GCC would load it again for each.
DELTACOME_INLINE void keep(__m512i& v) {
  asm("" : "+v"(v));
}
/// sum += products of unsigned and signed bytes, by fours. GCC 12 copies the sums of the intrinsic
/// to and fro in a loop.
DELTACOME_INLINE void add_products(__m512i& sum, __m512i codes, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(x));
}
/// The same with four bytes in memory, over and over.
DELTACOME_INLINE void add_products(__m512i& sum, __m512i codes, const int32_t& x) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(x));
}
DELTACOME_INLINE __mmask64 first_bytes(int64_t n) {
  return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1;
}
DELTACOME_INLINE __mmask16 first_floats(int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

}  // namespace
}  // namespace deltacome::cpu
