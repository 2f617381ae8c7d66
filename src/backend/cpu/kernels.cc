// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/kernels.h"

#include <vector>

namespace deltacome::cpu {

extern const Kernels kBaselineKernels;
#ifdef DELTACOME_X86
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

namespace {

std::vector<const Kernels*> find_kernels() {
  std::vector<const Kernels*> found;
#ifdef DELTACOME_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
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
