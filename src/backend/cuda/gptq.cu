// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/gptq_kernels.h"
#include "backend/cuda/numbers.cuh"
#include "backend/cuda/reduce.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kScaleBlock = 128;
constexpr int kScaleSteps = 24;  // candidates of the clipping search, 1/5 to 1 of the largest value
constexpr int kWarps = 8;        // rows of a block of gptq_kernel

__device__ double half_value(uint16_t bits) {
  return static_cast<double>(__half2float(__ushort_as_half(bits)));
}
/// As an fp16 scale; never 0, so that codes stay defined.
__device__ uint16_t round_scale(double scale) {
  const uint16_t bits = __half_as_ushort(__float2half_rn(static_cast<float>(fmin(scale, 65504.0))));
  return bits > 1 ? bits : 1;
}
/// Mid-rise code of w for a positive scale.
__device__ int nearest_code(double w, double inverse_scale, int bits) {
  const double level = floor(w * inverse_scale) + static_cast<double>(1 << (bits - 1));
  return static_cast<int>(fmin(fmax(level, 0.0), static_cast<double>((1 << bits) - 1)));
}
__device__ double center_of(int bits) {
  return 0.5 * static_cast<double>((1 << bits) - 1);
}

/// Grid (n_scales), block (kScaleBlock): a block has a scale. All candidates are tried in one pass.
__global__ void static_scales_kernel(const double* __restrict__ w, int64_t rows, int64_t n,
                                     const double* __restrict__ diagonal, GptqSection s) {
  const int64_t index = blockIdx.x;
  const int64_t first_row = index / s.per_row * s.scale_rows;
  const int64_t in_section = index % s.per_row * s.scale_cols;
  const int64_t n_rows = rows - first_row < s.scale_rows ? rows - first_row : s.scale_rows;
  const int64_t n_cols = s.count - in_section < s.scale_cols ? s.count - in_section : s.scale_cols;
  const int64_t first_col = s.first + in_section, total = n_rows * n_cols;
  const auto value = [&](int64_t i) {
    return w[(first_row + i / n_cols) * n + first_col + i % n_cols];
  };
  const auto weight = [&](int64_t i) {
    return diagonal == nullptr ? 1.0 : diagonal[first_col + i % n_cols];
  };
  double largest = 0, sum = 0, sum_of_weights = 0;
  for (int64_t i = threadIdx.x; i < total; i += kScaleBlock) {
    const double magnitude = fabs(value(i));
    largest = fmax(largest, magnitude);
    sum += weight(i) * magnitude;
    sum_of_weights += weight(i);
  }
  largest = join_block(largest, Larger());
  sum = join_block(sum, Plus());
  sum_of_weights = join_block(sum_of_weights, Plus());
  if (largest == 0 || s.bits == 1) {  // one bit: the weighted mean magnitude is optimal
    const double mean = 2 * sum / fmax(sum_of_weights, 1e-300);
    if (threadIdx.x == 0) s.scales[index] = largest == 0 ? uint16_t{1} : round_scale(mean);
    return;
  }
  const double full = largest / (0.5 * static_cast<double>((1 << s.bits) - 1));
  const double center = center_of(s.bits);
  __shared__ double scales[kScaleSteps + 1];
  for (int step = static_cast<int>(threadIdx.x); step <= kScaleSteps; step += kScaleBlock)
    scales[step] = half_value(round_scale(full * (0.2 + 0.8 * step / kScaleSteps)));
  __syncthreads();
  double errors[kScaleSteps + 1] = {};
  for (int64_t i = threadIdx.x; i < total; i += kScaleBlock) {
    const double x = value(i), by = weight(i);
#pragma unroll
    for (int step = 0; step <= kScaleSteps; ++step) {
      const double scale = scales[step];
      const double q = scale * (nearest_code(x, 1 / scale, s.bits) - center);
      errors[step] += by * (x - q) * (x - q);
    }
  }
  double least = INFINITY;
  int best = -1;
#pragma unroll
  for (int step = 0; step <= kScaleSteps; ++step) {
    const double error = join_block(errors[step], Plus());
    if (error < least) {
      least = error;
      best = step;
    }
  }
  if (threadIdx.x == 0) s.scales[index] = best < 0 ? uint16_t{1} : round_scale(scales[best]);
}

/// What a lane knows about one of its columns.
struct LaneColumn {
  bool is_there = false;
  int bits = 16;
  double value = 0, scale = 1, inverse = 1;
  int64_t at = 0;  // of its code
  uint8_t* codes = nullptr;
  uint16_t* halves = nullptr;
};

__device__ LaneColumn load_column(const GptqColumns& c, int64_t row, int64_t j) {
  LaneColumn out;
  if (j >= c.n) return out;
  out.is_there = true;
  const int64_t col = c.order == nullptr ? j : c.order[j];
  const GptqSection& s = c.sections[c.section[col]];
  const int64_t index = col - s.first;
  out.bits = s.bits;
  out.at = row * s.count + index;
  out.codes = s.codes;
  out.halves = s.halves;
  out.value = c.work[row * c.n + j];
  if (s.bits < 16) {
    out.scale = half_value(s.scales[row / s.scale_rows * s.per_row + index / s.scale_cols]);
    out.inverse = 1 / out.scale;
  }
  return out;
}

/// The nearest value; its code goes to `code`.
__device__ double quantized(const LaneColumn& c, double w, int* code) {
  if (c.bits == 16) {
    *code = __half_as_ushort(__float2half_rn(static_cast<float>(w)));
    return half_value(static_cast<uint16_t>(*code));
  }
  *code = nearest_code(w, c.inverse, c.bits);
  return c.scale * (*code - center_of(c.bits));
}

__device__ void store_code(const LaneColumn& c, int code) {
  if (!c.is_there) return;
  if (c.bits == 16) {
    c.halves[c.at] = static_cast<uint16_t>(code);
  } else {
    c.codes[c.at] = static_cast<uint8_t>(code);
  }
}

/// A warp has a row and a block of columns, a lane two of them; the warps of a block share the
/// feedback among these columns. Grid (ceil(rows / kWarps), column blocks: 1 with feedback), block
/// (32, kWarps), shared 32 KiB.
template <bool kFeedback>
__global__ void gptq_kernel(const GptqColumns c, int64_t first) {
  __shared__ double feedback[kFeedback ? kGptqColumns * kGptqColumns : 1];
  first += blockIdx.y * int64_t{kGptqColumns};
  const int count =
      static_cast<int>(c.n - first < kGptqColumns ? c.n - first : int64_t{kGptqColumns});
  const int lane = static_cast<int>(threadIdx.x);
  if constexpr (kFeedback) {
    for (int i = static_cast<int>(threadIdx.y) * 32 + lane; i < kGptqColumns * kGptqColumns;
         i += 32 * kWarps) {
      const int j = i / kGptqColumns, k = i % kGptqColumns;
      feedback[i] = j < k && k < count ? c.feedback[(first + j) * c.n + first + k] : 0.0;
    }
    __syncthreads();
  }
  const int64_t row = blockIdx.x * int64_t{kWarps} + threadIdx.y;
  if (row >= c.rows) return;
  LaneColumn a = load_column(c, row, first + lane), b = load_column(c, row, first + lane + 32);
  int code_a = 0, code_b = 0;
  double error_a = 0, error_b = 0;
  if constexpr (kFeedback) {
    for (int j = 0; j < count; ++j) {
      const bool is_low = j < 32;
      int code = 0;
      const double w = is_low ? a.value : b.value;
      const double q = quantized(is_low ? a : b, w, &code);
      const double error = __shfl_sync(0xffffffffu, w - q, j % 32);
      if (lane == j % 32) {
        if (is_low) {
          a.value = q;
          code_a = code;
          error_a = error;
        } else {
          b.value = q;
          code_b = code;
          error_b = error;
        }
      }
      // Zeros on and below the diagonal: columns that are done stay as they are.
      a.value -= error * feedback[j * kGptqColumns + lane];
      b.value -= error * feedback[j * kGptqColumns + lane + 32];
    }
  } else {
    a.value = quantized(a, a.value, &code_a);
    b.value = quantized(b, b.value, &code_b);
  }
  store_code(a, code_a);
  store_code(b, code_b);
  if (a.is_there) c.work[row * c.n + first + lane] = a.value;
  if (b.is_there) c.work[row * c.n + first + lane + 32] = b.value;
  if constexpr (kFeedback) {
    c.errors[row * kGptqColumns + lane] = error_a;
    c.errors[row * kGptqColumns + lane + 32] = error_b;
  }
}

}  // namespace

cudaError_t launch_static_scales(const double* w, int64_t rows, int64_t n, const double* diagonal,
                                 const GptqSection& section, int64_t n_scales,
                                 cudaStream_t stream) {
  if (n_scales == 0) return cudaSuccess;
  static_scales_kernel<<<static_cast<unsigned>(n_scales), kScaleBlock, 0, stream>>>(
      w, rows, n, diagonal, section);
  return cudaGetLastError();
}

cudaError_t launch_gptq(const GptqColumns& columns, int64_t first, cudaStream_t stream) {
  if (columns.rows == 0) return cudaSuccess;
  const auto rows = static_cast<unsigned>((columns.rows + kWarps - 1) / kWarps);
  if (columns.feedback != nullptr) {
    gptq_kernel<true><<<dim3(rows), dim3(32, kWarps), 0, stream>>>(columns, first);
  } else {
    const auto blocks =
        static_cast<unsigned>((columns.n - first + kGptqColumns - 1) / kGptqColumns);
    gptq_kernel<false><<<dim3(rows, blocks), dim3(32, kWarps), 0, stream>>>(columns, first);
  }
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
