// SPDX-License-Identifier: Apache-2.0
// The kernels in the architecture's baseline (SSE2 on x86-64, NEON on AArch64).
#define DELTACOME_KERNELS kBaselineKernels
#if defined(__aarch64__)
#define DELTACOME_KERNELS_NAME "NEON"
#else
#define DELTACOME_KERNELS_NAME "baseline"
#endif
#define DELTACOME_LANES 4
#include "backend/cpu/kernels_impl.h"
