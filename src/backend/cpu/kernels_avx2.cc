// SPDX-License-Identifier: Apache-2.0
// The kernels for AVX2 with FMA and F16C.
#define DELTACOME_KERNELS kAvx2Kernels
#define DELTACOME_KERNELS_NAME "AVX2"
#define DELTACOME_LANES 8
#include "backend/cpu/kernels_impl.h"
