// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/numbers.cuh"
#include "backend/cuda/quantize.h"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kGroup = 128;

/// 0 where 1 / scale would be infinite: all codes are then those of 0.
__device__ float inverse_of(float scale) {
  return scale < 1.17549435e-38f ? 0.0f : 1.0f / scale;
}

__device__ int code_of(float w, float inverse, int half) {
  const float level = floorf(__fmul_rn(w, inverse)) + static_cast<float>(half);
  return static_cast<int>(fminf(fmaxf(level, 0.0f), static_cast<float>(2 * half - 1)));
}

__device__ float largest_of_warp(float largest) {
  return max_over<32>(largest);
}

/// A row by a warp, the largest magnitude at the end of the scale.
template <class T>
__device__ void quantize_row(const Quantize& a, const T* w, int64_t row) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float largest = 0;
  for (int64_t i = lane; i < a.weights.cols; i += 32)
    largest = fmaxf(largest, fabsf(to_float(w[i])));
  const float scale = largest_of_warp(largest) / 127.5f;
  const float inverse = inverse_of(scale);
  uint8_t* codes = a.codes + row * a.weights.cols;
  for (int64_t i = lane; i < a.weights.cols; i += 32)
    codes[i] = static_cast<uint8_t>(code_of(to_float(w[i]), inverse, 128));
  if (lane == 0) a.row_scales[row] = scale;
}

/// A row by a warp, group by group; of the scales that are tried the one with the least squared
/// error. Cutting the largest weights pays for a finer step of the others.
template <class T>
__device__ void quantize_groups(const Quantize& a, const T* w, int64_t row) {
  constexpr float kShares[7] = {1.0f, 0.93f, 0.87f, 0.81f, 0.75f, 0.69f, 0.63f};
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t n_groups = (a.weights.cols + kGroup - 1) / kGroup;
  for (int64_t g = 0; g < n_groups; ++g) {
    float v[kGroup / 32];
    float largest = 0;
#pragma unroll
    for (int i = 0; i < kGroup / 32; ++i) {
      const int64_t col = kGroup * g + 32 * i + lane;
      v[i] = col < a.weights.cols ? to_float(w[col]) : 0.0f;
      largest = fmaxf(largest, fabsf(v[i]));
    }
    largest = largest_of_warp(largest);
    float least = -1, best_inverse = 0;
    __half best = __float2half_rn(0.0f);
#pragma unroll
    for (int t = 0; t < 7; ++t) {
      const __half bits = __float2half_rn(kShares[t] * largest / 7.5f);
      const float scale = __half2float(bits), inverse = inverse_of(scale);
      float error = 0;
#pragma unroll
      for (int i = 0; i < kGroup / 32; ++i) {
        if (kGroup * g + 32 * i + lane >= a.weights.cols) continue;
        const float d = v[i] - scale * (static_cast<float>(code_of(v[i], inverse, 8)) - 7.5f);
        error += d * d;
      }
      error = sum_over<32>(error);
      if (least >= 0 && error >= least) continue;
      least = error;
      best = bits;
      best_inverse = inverse;
    }
#pragma unroll
    for (int i = 0; i < kGroup / 32; ++i) {
      const int64_t col = kGroup * g + 32 * i + lane;
      if (col < a.weights.cols)
        a.codes[row * a.weights.cols + col] = static_cast<uint8_t>(code_of(v[i], best_inverse, 8));
    }
    if (lane == 0) a.group_scales[row * n_groups + g] = __half_as_ushort(best);
  }
}

/// Grid (ceil(rows / kWarps)), block (32 * kWarps): a warp has a row.
template <class T>
__global__ void __launch_bounds__(32 * kWarps) quantize_kernel(Quantize a) {
  const int64_t row = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (row >= a.weights.rows) return;
  const T* w = static_cast<const T*>(a.weights.data) + row * a.weights.cols;
  bool bad = false;
  for (int64_t i = threadIdx.x % 32; i < a.weights.cols; i += 32)
    bad = bad || !isfinite(to_float(w[i]));
  if (bad) atomicMin(a.bad_row, static_cast<int>(row));
  if (a.bits == 8) {
    quantize_row(a, w, row);
  } else {
    quantize_groups(a, w, row);
  }
}

/// Grid (ceil(rows / kWarps)), block (32 * kWarps): a warp has a row.
__global__ void __launch_bounds__(32 * kWarps) requantize_kernel(Requantize a) {
  const int64_t row = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (row >= a.rows) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t n_groups = (a.cols + kGroup - 1) / kGroup;
  const int64_t from_groups = (a.cols + a.group - 1) / a.group;
  double error = 0, energy = 0;
  for (int64_t g = 0; g < n_groups; ++g) {
    float v[kGroup / 32] = {};
    float largest = 0;
#pragma unroll
    for (int e = 0; e < kGroup / 32; ++e) {
      const int64_t col = kGroup * g + 32 * e + lane;
      if (col >= a.cols) continue;
      const int64_t i = a.code_of_column == nullptr ? col : a.code_of_column[col];
      const int64_t at = row * from_groups + i / a.group;
      const uint8_t code = a.from[row * a.cols + i];
      const float level = a.levels == nullptr ? static_cast<float>(code) : a.levels[code];
      v[e] = __fmul_rn(a.scales[at], __fsub_rn(level, a.zeros == nullptr ? 0.0f : a.zeros[at]));
      largest = fmaxf(largest, fabsf(v[e]));
    }
    const __half bits = __float2half_rn(largest_of_warp(largest) / 127.5f);
    const float scale = __half2float(bits), inverse = inverse_of(scale);
#pragma unroll
    for (int e = 0; e < kGroup / 32; ++e) {
      const int64_t col = kGroup * g + 32 * e + lane;
      if (col >= a.cols) continue;
      const int code = code_of(v[e], inverse, 128);
      a.codes[row * a.cols + col] = static_cast<uint8_t>(code);
      const double value = static_cast<double>(v[e]);
      const double off = value - static_cast<double>(scale * (static_cast<float>(code) - 127.5f));
      error += off * off;
      energy += value * value;
    }
    if (lane == 0) a.group_scales[row * n_groups + g] = __half_as_ushort(bits);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    error += __shfl_xor_sync(~0u, error, step);
    energy += __shfl_xor_sync(~0u, energy, step);
  }
  if (lane == 0) {
    a.loss[2 * row] = error;
    a.loss[2 * row + 1] = energy;
  }
}

}  // namespace

cudaError_t launch_requantize(const Requantize& args, cudaStream_t stream) {
  if (args.rows == 0 || args.cols == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>((args.rows + kWarps - 1) / kWarps);
  requantize_kernel<<<grid, 32 * kWarps, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t launch_quantize(const Quantize& args, cudaStream_t stream) {
  if (args.weights.rows == 0 || args.weights.cols == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>((args.weights.rows + kWarps - 1) / kWarps);
  if (args.weights.type == Element::kF32)
    quantize_kernel<float><<<grid, 32 * kWarps, 0, stream>>>(args);
  if (args.weights.type == Element::kF16)
    quantize_kernel<f16><<<grid, 32 * kWarps, 0, stream>>>(args);
  if (args.weights.type == Element::kBf16)
    quantize_kernel<bf16><<<grid, 32 * kWarps, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
