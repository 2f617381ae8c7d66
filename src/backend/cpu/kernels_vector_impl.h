// SPDX-License-Identifier: Apache-2.0
// The kernel of vector codes: a part of kernels_impl.h, which includes it, under its rules.
#pragma once

namespace deltacome::cpu {
namespace {

/// An entry is a constant number of floats, so that the inner loop is a few instructions.
template <int kDim>
void decode_entries_of(const EntriesArgs& args) {
  const EntriesArgs a = args;  // in registers: a store to `out` cannot change it
  const uint8_t* code = a.codes;
  int64_t i = 0;
  for (; i + kDim <= a.n; i += kDim, ++code) {
    const float* entry = a.entries + *code * kDim;
    float values[kDim];  // apart from `out`, which might overlap the entries
    for (int j = 0; j < kDim; ++j) values[j] = a.scale * entry[j];
    __builtin_memcpy(a.out + i, values, sizeof values);
  }
  for (int64_t j = 0; i + j < a.n; ++j) a.out[i + j] = a.scale * a.entries[*code * kDim + j];
}

void decode_entries(const EntriesArgs& a) {
  switch (a.dim) {
    case 4:
      return decode_entries_of<4>(a);
    case 6:
      return decode_entries_of<6>(a);
    case 8:
      return decode_entries_of<8>(a);
    case 12:
      return decode_entries_of<12>(a);
    case 16:
      return decode_entries_of<16>(a);
    default:
      return;
  }
}

}  // namespace
}  // namespace deltacome::cpu
