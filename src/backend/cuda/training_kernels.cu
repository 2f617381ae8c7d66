// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/training_kernels.h"

#include "backend/cuda/numbers.cuh"
#include "backend/cuda/reduce.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kBlock = 256;

unsigned grid_of(int64_t n, int64_t most) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

/// Grid (ceil(n_in / kBlock), <= n_out), block (kBlock): a thread has a column.
template <class T>
__global__ void compose_kernel(Compose a) {
  const int64_t col = blockIdx.x * int64_t{kBlock} + threadIdx.x;
  if (col >= a.n_in) return;
  const T* weight = static_cast<const T*>(a.weight.data);
  const float by_col = a.cols == nullptr ? 1.0f : a.cols[col];
  for (int64_t row = blockIdx.y; row < a.n_out; row += gridDim.y) {
    const int64_t at = row * a.n_in + col;
    float v = a.q == nullptr ? 0.0f : a.q[at] * by_col;
    if (a.rows != nullptr) v *= a.rows[row];
    a.out[at] = weight == nullptr ? v : to_float(weight[at]) + v;
  }
}

struct GainOfRow {
  const float *g, *q, *cols;
  int64_t n_in;
  __device__ float operator()(int64_t row, int64_t col) const {
    const int64_t at = row * n_in + col;
    return g[at] * q[at] * (cols == nullptr ? 1.0f : cols[col]);
  }
};
struct GainOfColumn {
  const float *g, *q, *rows;
  int64_t n_in;
  __device__ float operator()(int64_t row, int64_t col) const {
    const int64_t at = row * n_in + col;
    return g[at] * q[at] * (rows == nullptr ? 1.0f : rows[row]);
  }
};
struct Element2d {
  const float* a;
  int64_t width;
  __device__ float operator()(int64_t row, int64_t col) const { return a[row * width + col]; }
};
struct NormGain {
  const float *x, *dy, *inverse;
  int64_t width;
  __device__ float operator()(int64_t row, int64_t col) const {
    return dy[row * width + col] * x[row * width + col] * inverse[row];
  }
};

__global__ void add_pieces_kernel(const float* __restrict__ partial, int64_t pieces, int64_t width,
                                  float* __restrict__ sums) {
  const int64_t col = blockIdx.x * int64_t{kBlock} + threadIdx.x;
  if (col >= width) return;
  float sum = 0;
  for (int64_t i = 0; i < pieces; ++i) sum += partial[i * width + col];
  sums[col] += sum;
}

/// sums[col] += sum over rows of at(row, col), in two steps.
template <class At>
cudaError_t add_columns(const At& at, int64_t n_rows, int64_t width, float* scratch, float* sums,
                        cudaStream_t stream) {
  const int64_t pieces = column_sum_pieces(n_rows);
  const auto columns = static_cast<unsigned>((width + kBlock - 1) / kBlock);
  column_sums_kernel<<<dim3(columns, static_cast<unsigned>(pieces)), kBlock, 0, stream>>>(
      at, n_rows, width, scratch);
  add_pieces_kernel<<<columns, kBlock, 0, stream>>>(scratch, pieces, width, sums);
  return cudaGetLastError();
}

/// Grid (n), block (kBlock): inverse[i] = 1 / rms of a piece, minus[i] = what it takes of x.
__global__ void rms_norm_stats_kernel(RmsNormBackward a, float* __restrict__ inverse,
                                      float* __restrict__ minus) {
  const float* x = a.x + blockIdx.x * a.d;
  const float* dy = a.dy + blockIdx.x * a.d;
  double squares = 0, dot = 0;
  for (int64_t i = threadIdx.x; i < a.d; i += kBlock) {
    const double v = x[i];
    squares += v * v;
    dot += v * static_cast<double>(dy[i] * a.weight[i]);
  }
  squares = join_block(squares, Plus());
  dot = join_block(dot, Plus());
  if (threadIdx.x != 0) return;
  const double n = static_cast<double>(a.d);
  const double by = 1 / sqrt(squares / n + a.eps);
  inverse[blockIdx.x] = static_cast<float>(by);
  minus[blockIdx.x] = static_cast<float>(by * by * by * dot / n);
}

/// Grid (n), block (kBlock). dx may be dy.
__global__ void rms_norm_backward_kernel(RmsNormBackward a, const float* __restrict__ inverse,
                                         const float* __restrict__ minus) {
  const int64_t first = blockIdx.x * a.d;
  const float by = inverse[blockIdx.x], less = minus[blockIdx.x];
  for (int64_t i = threadIdx.x; i < a.d; i += kBlock)
    a.dx[first + i] = a.dy[first + i] * a.weight[i] * by - less * a.x[first + i];
}

__global__ void silu_mul_backward_kernel(const float* gate, const float* up, const float* d_out,
                                         float* d_gate, float* d_up, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{kBlock} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kBlock) {
    const float g = gate[i], u = up[i], d = d_out[i];
    const float s = 1.0f / (1.0f + expf(-g));
    d_gate[i] = d * u * s * (1.0f + g * (1.0f - s));
    d_up[i] = d * g * s;
  }
}

__global__ void adam_kernel(AdamUpdate a) {
  for (int64_t i = blockIdx.x * int64_t{kBlock} + threadIdx.x; i < a.n;
       i += int64_t{gridDim.x} * kBlock) {
    const float g = a.g[i];
    const float m = a.beta1 * a.m[i] + (1.0f - a.beta1) * g;
    const float v = a.beta2 * a.v[i] + (1.0f - a.beta2) * g * g;
    a.m[i] = m;
    a.v[i] = v;
    a.p[i] -= a.rate * m / (sqrtf(v) * a.root + a.epsilon);
    a.g[i] = 0;
  }
}

}  // namespace

int64_t column_sum_scratch(int64_t n_rows, int64_t width) {
  return column_sum_pieces(n_rows) * width;
}

cudaError_t launch_compose(const Compose& args, cudaStream_t stream) {
  if (args.n_out == 0 || args.n_in == 0) return cudaSuccess;
  const auto rows = static_cast<unsigned>(args.n_out < 16384 ? args.n_out : 16384);
  const dim3 grid(static_cast<unsigned>((args.n_in + kBlock - 1) / kBlock), rows);
  switch (args.weight.type) {
    case Element::kF32:
      compose_kernel<float><<<grid, kBlock, 0, stream>>>(args);
      break;
    case Element::kF16:
      compose_kernel<f16><<<grid, kBlock, 0, stream>>>(args);
      break;
    case Element::kBf16:
      compose_kernel<bf16><<<grid, kBlock, 0, stream>>>(args);
      break;
    case Element::kInt8:
      return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

cudaError_t launch_gain_gradients(const GainGradients& a, cudaStream_t stream) {
  if (a.n_out == 0 || a.n_in == 0) return cudaSuccess;
  if (a.d_rows != nullptr) {
    row_sums_kernel<true><<<static_cast<unsigned>(a.n_out), kBlock, 0, stream>>>(
        GainOfRow{a.g, a.q, a.cols, a.n_in}, a.n_in, a.d_rows);
  }
  if (a.d_cols == nullptr) return cudaGetLastError();
  return add_columns(GainOfColumn{a.g, a.q, a.rows, a.n_in}, a.n_out, a.n_in, a.scratch, a.d_cols,
                     stream);
}

cudaError_t launch_add_row_dots(const float* a, const float* b, int64_t n, int64_t d, float* sums,
                                cudaStream_t stream) {
  if (n == 0 || d == 0) return cudaSuccess;
  row_sums_kernel<true>
      <<<static_cast<unsigned>(n), kBlock, 0, stream>>>(GainOfRow{a, b, nullptr, d}, d, sums);
  return cudaGetLastError();
}

cudaError_t launch_add_col_sums(const float* a, int64_t n, int64_t d, float* sums, float* scratch,
                                cudaStream_t stream) {
  if (n == 0 || d == 0) return cudaSuccess;
  return add_columns(Element2d{a, d}, n, d, scratch, sums, stream);
}

cudaError_t launch_rms_norm_backward(const RmsNormBackward& a, cudaStream_t stream) {
  if (a.n == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(a.n);
  float *inverse = a.scratch, *minus = inverse + a.n, *partial = minus + a.n;
  rms_norm_stats_kernel<<<grid, kBlock, 0, stream>>>(a, inverse, minus);
  if (a.d_weight != nullptr) {  // before dx, which may take dy's place
    const cudaError_t status =
        add_columns(NormGain{a.x, a.dy, inverse, a.d}, a.n, a.d, partial, a.d_weight, stream);
    if (status != cudaSuccess) return status;
  }
  rms_norm_backward_kernel<<<grid, kBlock, 0, stream>>>(a, inverse, minus);
  return cudaGetLastError();
}

cudaError_t launch_silu_mul_backward(const float* gate, const float* up, const float* d_out,
                                     float* d_gate, float* d_up, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  silu_mul_backward_kernel<<<grid_of(n, 8192), kBlock, 0, stream>>>(gate, up, d_out, d_gate, d_up,
                                                                    n);
  return cudaGetLastError();
}

cudaError_t launch_adam(const AdamUpdate& args, cudaStream_t stream) {
  if (args.n == 0) return cudaSuccess;
  adam_kernel<<<grid_of(args.n, 4096), kBlock, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
