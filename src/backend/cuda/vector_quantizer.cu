// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/vector_quantizer.h"

#include "backend/cuda/numbers.cuh"
#include "backend/cuda/reduce.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kBlock = 256;
constexpr int kWarps = 8;               // rows of a block of code_panel_kernel
constexpr float kBookStep = 1.0f / 32;  // quant/vector_codes.h
constexpr int kSquare = kMostDim * kMostDim;

__device__ float entry(const int8_t* book, int dim, int e, int i) {
  return static_cast<float>(book[e * dim + i]) * kBookStep;
}

/// Grid (groups), block (256): a thread has an entry; the first ones make the metric.
__global__ void make_groups_kernel(VectorGroups g) {
  __shared__ double inverse[kSquare];
  __shared__ float metric[kSquare];
  const int64_t first = blockIdx.x * int64_t{g.dim};
  const int n = static_cast<int>(g.n - first < g.dim ? g.n - first : int64_t{g.dim});
  const int t = static_cast<int>(threadIdx.x);
  if (g.feedback == nullptr) {
    if (t < kSquare) metric[t] = t / kMostDim == t % kMostDim ? 1.0f : 0.0f;
  } else {
    const auto factor = [&](int i, int j) { return g.feedback[(first + i) * g.n + first + j]; };
    if (t < kSquare) inverse[t] = 0;
    __syncthreads();
    if (t < n) {  // a column of the inverse of a unit upper triangle
      for (int i = t; i >= 0; --i) {
        double sum = i == t ? 1 : 0;
        for (int k = i + 1; k <= t; ++k) sum -= factor(i, k) * inverse[k * kMostDim + t];
        inverse[i * kMostDim + t] = sum;
      }
    }
    __syncthreads();
    if (t < kSquare) {  // M = N^-1 D^-2 N^-T for R_g = D N; its scale does not matter
      const int i = t / kMostDim, j = t % kMostDim;
      const double unit = g.pivots[first];
      double sum = 0;
      for (int k = i > j ? i : j; k < n; ++k) {
        const double pivot = g.pivots[first + k] / unit;
        sum += inverse[i * kMostDim + k] * inverse[j * kMostDim + k] / (pivot * pivot);
      }
      metric[t] = static_cast<float>(sum);
      g.inverse[blockIdx.x * int64_t{kSquare} + t] = inverse[t];
    }
  }
  __syncthreads();
  if (t < kSquare) g.metric[blockIdx.x * int64_t{kSquare} + t] = metric[t];
  float norm = 0;
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j)
      norm += entry(g.book, g.dim, t, i) * entry(g.book, g.dim, t, j) * metric[i * kMostDim + j];
  }
  g.half_norms[blockIdx.x * int64_t{kVectorEntries} + t] = norm / 2;
}

/// Grid (ceil(columns from the panel's first on / kBlock), groups of the panel), block (kBlock): a
/// thread has a column.
__global__ void group_feedback_kernel(VectorGroups g, int64_t first, double* __restrict__ to) {
  __shared__ double inverse[kSquare];
  const int64_t in_panel = blockIdx.y * int64_t{g.dim}, at = first + in_panel;
  const double* from = g.inverse + at / g.dim * kSquare;
  for (int i = static_cast<int>(threadIdx.x); i < kSquare; i += kBlock) inverse[i] = from[i];
  __syncthreads();
  const int n = static_cast<int>(g.n - at < g.dim ? g.n - at : int64_t{g.dim});
  const int64_t col = first + blockIdx.x * int64_t{kBlock} + threadIdx.x;
  if (col < at + n || col >= g.n) return;
  double r[kMostDim];
#pragma unroll
  for (int k = 0; k < kMostDim; ++k) r[k] = k < n ? g.feedback[(at + k) * g.n + col] : 0.0;
#pragma unroll
  for (int i = 0; i < kMostDim; ++i) {
    if (i >= n) break;
    double sum = 0;
#pragma unroll
    for (int k = 0; k < kMostDim; ++k) sum += inverse[i * kMostDim + k] * r[k];
    to[(in_panel + i) * g.n + col] = sum;
  }
}

/// Grid (rows), block (kBlock).
__global__ void row_scales_kernel(const double* __restrict__ w, int64_t n,
                                  uint16_t* __restrict__ scales) {
  const double* row = w + blockIdx.x * n;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kBlock) sum += row[i] * row[i];
  sum = join_block(sum, Plus());
  if (threadIdx.x != 0) return;
  const double rms = fmin(sqrt(sum / static_cast<double>(n)), 65504.0);
  const uint16_t bits = __half_as_ushort(__float2half_rn(static_cast<float>(rms)));
  scales[blockIdx.x] = bits > 1 ? bits : 1;
}

/// A warp has a row; its columns of the panel are in shared memory, its lanes share the entries of
/// the book. Grid (ceil(rows / kWarps)), block (32, kWarps), shared 16 KiB of book and 8 x 72
/// doubles.
__global__ void code_panel_kernel(const VectorPanel p) {
  __shared__ float book[kMostDim * kVectorEntries];  // [dim, 256], so that lanes read neighbours
  __shared__ double panel[kWarps][kMostPanel];
  const VectorGroups& g = p.groups;
  const int lane = static_cast<int>(threadIdx.x), dim = g.dim;
  for (int i = static_cast<int>(threadIdx.y) * 32 + lane; i < dim * kVectorEntries;
       i += 32 * kWarps) {
    book[i] = entry(g.book, dim, i % kVectorEntries, i / kVectorEntries);
  }
  __syncthreads();
  const int64_t row = blockIdx.x * int64_t{kWarps} + threadIdx.y;
  if (row >= p.rows) return;
  double* x = panel[threadIdx.y];
  double* work = p.work + row * g.n + p.first;
  double* errors = p.errors + row * kMostPanel;
  const int count = static_cast<int>(p.count);
  for (int i = lane; i < count; i += 32) x[i] = work[i];
  __syncwarp();
  const double scale = static_cast<double>(__half2float(__ushort_as_half(p.scales[row])));
  const double inverse_scale = 1 / scale;
  const int64_t codes_per_row = (g.n + dim - 1) / dim;
  for (int at = 0; at < count; at += dim) {
    const int n = count - at < dim ? count - at : dim;
    const int64_t group = (p.first + at) / dim;
    const float* metric = g.metric + group * kSquare;
    const float* half_norms = g.half_norms + group * kVectorEntries;
    float weighted = 0;  // of column `lane`: (w M)
    if (lane < n) {
      for (int i = 0; i < n; ++i)
        weighted += static_cast<float>(x[at + i] * inverse_scale) * metric[i * kMostDim + lane];
    }
    float score[kVectorEntries / 32];
#pragma unroll
    for (int e = 0; e < kVectorEntries / 32; ++e) score[e] = -half_norms[e * 32 + lane];
    for (int j = 0; j < n; ++j) {
      const float by = __shfl_sync(0xffffffffu, weighted, j);
#pragma unroll
      for (int e = 0; e < kVectorEntries / 32; ++e)
        score[e] += by * book[j * kVectorEntries + e * 32 + lane];
    }
    float best_score = score[0];
    int best = lane;
#pragma unroll
    for (int e = 1; e < kVectorEntries / 32; ++e) {
      if (score[e] > best_score) {
        best_score = score[e];
        best = e * 32 + lane;
      }
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {  // of equal ones the first
      const float other_score = __shfl_xor_sync(0xffffffffu, best_score, step);
      const int other = __shfl_xor_sync(0xffffffffu, best, step);
      if (other_score > best_score || (other_score == best_score && other < best)) {
        best_score = other_score;
        best = other;
      }
    }
    if (lane == 0) p.codes[row * codes_per_row + group] = static_cast<uint8_t>(best);
    double error = 0;
    if (lane < n) {
      const double q = scale * static_cast<double>(book[lane * kVectorEntries + best]);
      error = x[at + lane] - q;
      x[at + lane] = q;
      errors[at + lane] = error;
    }
    if (p.feedback == nullptr) continue;
    const int behind = at + n;
    double of_group[kMostDim];
#pragma unroll
    for (int i = 0; i < kMostDim; ++i) of_group[i] = __shfl_sync(0xffffffffu, error, i);
    for (int c = behind + lane; c < count; c += 32) {
      double v = x[c];
#pragma unroll
      for (int i = 0; i < kMostDim; ++i)
        if (i < n) v -= of_group[i] * p.feedback[(at + i) * g.n + p.first + c];
      x[c] = v;
    }
    __syncwarp();
  }
  __syncwarp();
  for (int i = lane; i < count; i += 32) work[i] = x[i];
}

}  // namespace

cudaError_t launch_make_groups(const VectorGroups& groups, cudaStream_t stream) {
  if (groups.n == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>((groups.n + groups.dim - 1) / groups.dim);
  make_groups_kernel<<<grid, kVectorEntries, 0, stream>>>(groups);
  return cudaGetLastError();
}

cudaError_t launch_group_feedback(const VectorGroups& groups, int64_t first, int64_t count,
                                  double* to, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((groups.n - first + kBlock - 1) / kBlock),
                  static_cast<unsigned>((count + groups.dim - 1) / groups.dim));
  group_feedback_kernel<<<grid, kBlock, 0, stream>>>(groups, first, to);
  return cudaGetLastError();
}

cudaError_t launch_row_scales(const double* w, int64_t rows, int64_t n, uint16_t* scales,
                              cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  row_scales_kernel<<<static_cast<unsigned>(rows), kBlock, 0, stream>>>(w, n, scales);
  return cudaGetLastError();
}

cudaError_t launch_code_panel(const VectorPanel& panel, cudaStream_t stream) {
  if (panel.rows == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>((panel.rows + kWarps - 1) / kWarps);
  code_panel_kernel<<<grid, dim3(32, kWarps), 0, stream>>>(panel);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
