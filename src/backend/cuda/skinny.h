// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/element.h"

namespace deltacome::cuda {

inline constexpr int kSkinnyRows = 16;    // most rows of x of launch_skinny()
inline constexpr int kSkinnyTargets = 4;  // most matrices of a launch

/// y = x W^T for a few rows of x, which are rounded to the type of W; sums in f32. A row's result
/// does not depend on the other rows, nor on their number. All targets share x and the type.
struct Skinny {
  struct Target {
    const void* w = nullptr;  // [n_out, n_in], aligned to 16 bytes
    float* y = nullptr;       // [n_rows, >= n_out], `stride` elements between rows
    int64_t n_out = 0, stride = 0;
  };
  Target targets[kSkinnyTargets];
  int n_targets = 0;
  Element type = Element::kBf16;  // or kF16
  const float* x = nullptr;       // [n_rows, n_in], aligned to 16 bytes
  int n_rows = 0;                 // 1 to kSkinnyRows
  int64_t n_in = 0;               // a multiple of 8
  bool overlaps = false;          // with what is before it: sm_90 or later
  bool leaves_room = false;       // on each SM for a kernel that begins early behind it
};
/// Kernels that begin early behind it begin when x is there.
cudaError_t launch_skinny(const Skinny& args, int n_sms, cudaStream_t stream);

}  // namespace deltacome::cuda
