// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/decode_kernels.h"

#include "backend/cuda/numbers.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kBlock = 256;
constexpr float kBookStep = 1.0f / 32;  // quant/vector_codes.h

__device__ float half_at(const uint16_t* halves, int64_t i) {
  return __half2float(__ushort_as_half(halves[i]));
}
__device__ float bf16_at(const uint16_t* halves, int64_t i) {
  return __uint_as_float(uint32_t{halves[i]} << 16);
}
__device__ float gain_of(uint8_t code) {
  return exp2f(static_cast<float>(code - 128) / 64);
}

/// Field of a plane of `width` bits a code.
__device__ int field(const uint8_t* plane, int width, int64_t row_bytes, int64_t r, int64_t c) {
  const int per_byte = 8 / width;
  const int byte = plane[r * row_bytes + c / per_byte];
  return (byte >> (width * static_cast<int>(c % per_byte))) & ((1 << width) - 1);
}

__device__ int code_at(const StoredArray& a, int64_t r, int64_t c) {
  if (a.bits != 3) return field(a.codes, a.bits, (a.cols * a.bits + 7) / 8, r, c);
  const int64_t low = (a.cols * 2 + 7) / 8;
  return field(a.codes, 2, low, r, c) | field(a.codes + a.rows * low, 1, (a.cols + 7) / 8, r, c)
                                            << 2;
}

__device__ float value_at(const StoredArray& a, int64_t r, int64_t c) {
  if (a.bits == 16) return half_at(reinterpret_cast<const uint16_t*>(a.codes), r * a.cols + c);
  const int64_t per_row = a.scale_cols == 0 ? 1 : (a.cols + a.scale_cols - 1) / a.scale_cols;
  const int64_t block = (a.scale_rows == 0 ? 0 : r / a.scale_rows) * per_row +
                        (a.scale_cols == 0 ? 0 : c / a.scale_cols);
  const float center = 0.5f * static_cast<float>((1 << a.bits) - 1);
  return half_at(a.scales, block) * (static_cast<float>(code_at(a, r, c)) - center);
}

/// Tiles of 32 x 32, transposed in shared memory where the output's rows are the array's columns.
/// Grid (ceil(cols / 32), ceil(rows / 32)), block (32, 8).
__global__ void decode_array_kernel(StoredArray a) {
  __shared__ float tile[32][33];
  const int64_t c = blockIdx.x * int64_t{32} + threadIdx.x;
  for (int64_t i = threadIdx.y; i < 32; i += 8) {
    const int64_t r = blockIdx.y * int64_t{32} + i;
    if (r >= a.rows || c >= a.cols) continue;
    float v = value_at(a, r, c);
    if (a.gains != nullptr) v *= gain_of(a.gains[c]);
    if (a.s != nullptr) v *= bf16_at(a.s, r);
    if (a.col_step == 1) {
      a.out[r * a.row_step + c] = v;
    } else {
      tile[i][threadIdx.x] = v;
    }
  }
  if (a.col_step == 1) return;
  __syncthreads();
  const int64_t r = blockIdx.y * int64_t{32} + threadIdx.x;
  for (int64_t i = threadIdx.y; i < 32; i += 8) {
    const int64_t col = blockIdx.x * int64_t{32} + i;
    if (r < a.rows && col < a.cols) a.out[r * a.row_step + col * a.col_step] = tile[threadIdx.x][i];
  }
}

/// Hadamard transform of x [block] in shared memory, unscaled; all threads of a CUDA block.
template <class T>
__device__ void hadamard(T* x, int block) {
  for (int half = 1; half < block; half *= 2) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < block / 2; i += kBlock) {
      const int at = i / half * 2 * half + i % half;
      const T a = x[at], b = x[at + half];
      x[at] = a + b;
      x[at + half] = a - b;
    }
  }
  __syncthreads();
}

/// The i-th sign of rotation_signs(): splitmix64.
__device__ float rotation_sign(uint64_t start, int64_t i) {
  uint64_t z = start + static_cast<uint64_t>(i + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return ((z ^ (z >> 31)) & 1) == 0 ? 1.0f : -1.0f;
}

/// Grid (rows, n_in / block), block (kBlock), shared `block` floats.
__global__ void decode_vectors_kernel(StoredVectors a) {
  extern __shared__ float values[];
  const int64_t row = blockIdx.x, first = blockIdx.y * a.block;
  const int n = static_cast<int>(a.block);
  const int64_t per_row = (a.n_in + a.dim - 1) / a.dim;
  const float scale = half_at(a.scales, row);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kBlock) {
    const int64_t col = first + i;
    const int entry = a.codes[row * per_row + col / a.dim];
    values[i] = scale * (static_cast<float>(a.book[entry * a.dim + col % a.dim]) * kBookStep);
  }
  hadamard(values, n);
  const float by = 1.0f / sqrtf(static_cast<float>(n));
  const uint64_t start = a.seed + static_cast<uint64_t>(a.n_in);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kBlock) {
    const int64_t col = first + i;
    float v = values[i] * by * rotation_sign(start, col);
    if (a.gains != nullptr) v *= gain_of(a.gains[col]);
    a.out[row * a.n_in + col] = v;
  }
}

/// Grid (n, d / block), block (kBlock), shared `block` doubles.
__global__ void rotate_rows_kernel(double* __restrict__ a, int64_t d,
                                   const float* __restrict__ signs, int64_t block) {
  extern __shared__ double wide[];
  const int64_t first = blockIdx.y * block;
  double* row = a + blockIdx.x * d + first;
  const int n = static_cast<int>(block);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kBlock)
    wide[i] = row[i] * static_cast<double>(signs[first + i]);
  hadamard(wide, n);
  const double by = 1 / sqrt(static_cast<double>(n));
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kBlock) row[i] = wide[i] * by;
}

}  // namespace

cudaError_t launch_decode_array(const StoredArray& array, cudaStream_t stream) {
  if (array.rows == 0 || array.cols == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((array.cols + 31) / 32),
                  static_cast<unsigned>((array.rows + 31) / 32));
  decode_array_kernel<<<grid, dim3(32, 8), 0, stream>>>(array);
  return cudaGetLastError();
}

cudaError_t launch_decode_vectors(const StoredVectors& vectors, cudaStream_t stream) {
  if (vectors.rows == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(vectors.rows),
                  static_cast<unsigned>(vectors.n_in / vectors.block));
  const auto bytes = static_cast<size_t>(vectors.block) * sizeof(float);
  decode_vectors_kernel<<<grid, kBlock, bytes, stream>>>(vectors);
  return cudaGetLastError();
}

cudaError_t launch_rotate_rows(double* a, int64_t n, int64_t d, const float* signs, int64_t block,
                               cudaStream_t stream) {
  if (n == 0 || d == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(n), static_cast<unsigned>(d / block));
  const auto bytes = static_cast<size_t>(block) * sizeof(double);
  rotate_rows_kernel<<<grid, kBlock, bytes, stream>>>(a, d, signs, block);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
