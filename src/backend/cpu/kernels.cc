// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/kernels.h"

#include <vector>

#include "backend/cpu/packed_kernels.h"

namespace deltacome::cpu {

extern const Kernels kBaselineKernels;
#ifdef DELTACOME_X86
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const PackedKernels kVnniKernels;
extern const Bf16Kernels kAvx512Bf16Kernels;
#endif

namespace {

#ifdef DELTACOME_X86
/// AVX-512 of Ice Lake (VNNI, VBMI), and bf16 where the processor has it.
const Kernels& vnni_kernels() {
  static const Kernels kernels = [] {
    Kernels k = kAvx512Kernels;
    const bool bf16 = __builtin_cpu_supports("avx512bf16");
    k.name = bf16 ? "AVX-512 VNNI BF16" : "AVX-512 VNNI";
    k.packed = &kVnniKernels;
    k.bf16 = bf16 ? &kAvx512Bf16Kernels : nullptr;
    return k;
  }();
  return kernels;
}
#endif

std::vector<const Kernels*> find_kernels() {
  std::vector<const Kernels*> found;
#ifdef DELTACOME_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"))
      found.push_back(&vnni_kernels());
    found.push_back(&kAvx512Kernels);
  }
  // Every processor with AVX2 and FMA has F16C, which older compilers cannot ask for by name.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found.push_back(&kAvx2Kernels);
#endif
  found.push_back(&kBaselineKernels);
  return found;
}

}  // namespace

std::span<const Kernels* const> available_kernels() {
  static const std::vector<const Kernels*> kFound = find_kernels();
  return kFound;
}

}  // namespace deltacome::cpu
