// SPDX-License-Identifier: Apache-2.0
// The kernels for AVX-512 (F, BW, VL, DQ).
#define DELTACOME_KERNELS kAvx512Kernels
#define DELTACOME_KERNELS_NAME "AVX-512"
#define DELTACOME_LANES 16
#include "backend/cpu/kernels_impl.h"
